//! One Rust competitor in a process of its own, driven over stdin and stdout by `bench.py`.
//!
//! `peers-worker MODE DATA N D C THREADS` reads `x.f32`, `w.f32` and `y.i64` (raw, little-endian)
//! in the directory DATA, says `ready <resident kB before the data> <note>`, then answers
//!
//! | line | answer |
//! |---|---|
//! | `run K` | K steps: `ms t_1 .. t_K` |
//! | `save PREFIX` | one step, its gradients to `PREFIX.dx` and `PREFIX.dw`: `loss L` |
//! | `peak` | `kb VmHWM` |
//!
//! `PEERS_ISA=avx2` in the environment holds this crate and faer to AVX2 on a CPU with more.

mod engine;
mod gemm;
mod naive;
mod product;
mod split;
mod step;

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;

use margin_softmax::{ArcFace, Head, Precision};
use ndarray::{Array2, ArrayView2};

use engine::Engine;
use gemm::Gemm;
use naive::Naive;
use split::Split;
use step::Step;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The hyper-parameters every competitor runs with.
const SCALE: f64 = 64.0;
const MARGIN: f64 = 0.5;

/// One competitor: a whole step on data it holds.
trait Competitor {
    /// Runs one step and returns the mean loss.
    fn step(&mut self) -> Result<f64>;

    /// Writes the last step's gradients, if it has any, raw, to `PREFIX.dx` and `PREFIX.dw`.
    fn save(&self, _prefix: &str) -> Result<()> {
        Ok(())
    }

    /// What form was chosen, if there was a choice.
    fn note(&self) -> String {
        String::new()
    }
}

/// A number as the files hold it.
trait Element: Copy + From<f32> {
    fn write_to(self, out: &mut impl Write) -> io::Result<()>;
}

impl Element for f32 {
    fn write_to(self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.to_le_bytes())
    }
}

impl Element for f64 {
    fn write_to(self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.to_le_bytes())
    }
}

/// A batch as the files give it.
struct Data<F> {
    x: Array2<F>,
    w: Array2<F>,
    labels: Vec<usize>,
}

impl<F: Element> Data<F> {
    fn read(dir: &Path, n: usize, d: usize, c: usize) -> Result<Self> {
        let floats = |name: &str, rows: usize| -> Result<Array2<F>> {
            let mut file = BufReader::new(File::open(dir.join(name))?);
            let mut array = Array2::from_elem((rows, d), F::from(0.0));
            for value in &mut array {
                let mut bytes = [0; 4];
                file.read_exact(&mut bytes)?;
                *value = F::from(f32::from_le_bytes(bytes));
            }
            Ok(array)
        };
        let mut file = BufReader::new(File::open(dir.join("y.i64"))?);
        let mut labels = vec![0; n];
        for label in &mut labels {
            let mut bytes = [0; 8];
            file.read_exact(&mut bytes)?;
            *label = usize::try_from(i64::from_le_bytes(bytes))?;
        }
        Ok(Self { x: floats("x.f32", n)?, w: floats("w.f32", c)?, labels })
    }
}

/// Whether to use AVX2 at most, and the CPU has it.
#[cfg(target_arch = "x86_64")]
fn held_to_avx2() -> bool {
    static HELD: LazyLock<bool> = LazyLock::new(|| {
        env::var("PEERS_ISA").is_ok_and(|isa| isa == "avx2")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
    });
    *HELD
}

#[cfg(not(target_arch = "x86_64"))]
fn held_to_avx2() -> bool {
    false
}

/// ArcFace as every competitor computes it.
fn head() -> Result<Head<ArcFace>> {
    let head = Head::new(ArcFace::new(SCALE, MARGIN)?);
    if held_to_avx2() {
        // Of the portable one, AVX2 and AVX-512.
        return head.at_every_level().nth(1).ok_or_else(|| "no level of AVX2".into());
    }
    Ok(head)
}

/// The rows divided by their norms, and the norms.
fn normalize(rows: ArrayView2<f32>) -> (Array2<f32>, Vec<f32>) {
    let mut unit = rows.to_owned();
    let norms = unit
        .rows_mut()
        .into_iter()
        .map(|mut row| {
            let norm = row.dot(&row).sqrt();
            row /= norm;
            norm
        })
        .collect();
    (unit, norms)
}

/// Writes both gradients, raw and little-endian, to `PREFIX.dx` and `PREFIX.dw`.
fn write_gradients<F: Element>(prefix: &str, dx: &Array2<F>, dw: &Array2<F>) -> Result<()> {
    for (array, suffix) in [(dx, "dx"), (dw, "dw")] {
        let mut file = BufWriter::new(File::create(format!("{prefix}.{suffix}"))?);
        array.iter().try_for_each(|value| value.write_to(&mut file))?;
        file.flush()?;
    }
    Ok(())
}

/// A field of `/proc/self/status`, in kB.
fn status_kb(field: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(field)).ok_or("no such field")?;
    Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse()?)
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [mode, dir, sizes @ ..] = args.as_slice() else {
        return Err("usage: peers-worker MODE DATA N D C THREADS".into());
    };
    let sizes = sizes.iter().map(|s| s.parse()).collect::<std::result::Result<Vec<usize>, _>>()?;
    let [n, d, c, threads] = sizes[..] else {
        return Err("N D C THREADS expected".into());
    };

    let before = status_kb("VmRSS")?;
    let dir = Path::new(dir);
    let mut competitor: Box<dyn Competitor> = match mode.as_str() {
        "engine" => Box::new(Engine::<f32>::new(Data::read(dir, n, d, c)?, Precision::Full)?),
        "engine64" => Box::new(Engine::<f64>::new(Data::read(dir, n, d, c)?, Precision::Full)?),
        "bf16" => Box::new(Engine::<f32>::new(Data::read(dir, n, d, c)?, Precision::Bf16)?),
        "step" => Box::new(Step::new(Data::read(dir, n, d, c)?, dir)?),
        "gemm" => Box::new(Gemm::new(Data::read(dir, n, d, c)?, threads)),
        "split" => Box::new(Split::new(Data::read(dir, n, d, c)?, threads)),
        "naive" => Box::new(Naive::new(Data::read(dir, n, d, c)?)),
        _ => return Err(format!("unknown mode {mode}").into()),
    };

    let mut out = io::stdout().lock();
    writeln!(out, "ready {before} {}", competitor.note())?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("run", count) => {
                write!(out, "ms")?;
                for _ in 0..count.parse()? {
                    let start = Instant::now();
                    competitor.step()?;
                    write!(out, " {:.6}", start.elapsed().as_secs_f64() * 1e3)?;
                }
                writeln!(out)?;
            }
            ("save", prefix) => {
                let loss = competitor.step()?;
                competitor.save(prefix)?;
                writeln!(out, "loss {loss:.12}")?;
            }
            ("peak", _) => writeln!(out, "kb {}", status_kb("VmHWM")?)?,
            _ => return Err(format!("unknown command {line}").into()),
        }
        out.flush()?;
    }
    Ok(())
}
