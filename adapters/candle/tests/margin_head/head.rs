//! Inputs, parameters and errors of a head.

use std::sync::Arc;

use candle_core::{D, DType, Device, Error, IndexOp, Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, VarBuilder, VarMap};
use margin_softmax::{
    ArcFace, Batch, CosFace, Head, Precision, Softmax, SphereFace, ZeroEmbedding,
};
use margin_softmax_candle::{MarginHead, Options, Output, Settings, refusal};

const CPU: Device = Device::Cpu;

fn fresh(map: &VarMap, dtype: DType) -> VarBuilder<'static> {
    VarBuilder::from_varmap(map, dtype, &CPU)
}

/// Three classes in the plane.
fn plane() -> Result<MarginHead> {
    let weight = Var::new(&[[1.0_f32, 0.1], [-0.4, 0.9], [-0.5, -0.8]], &CPU)?;
    let head = Head::new(Arc::new(CosFace::default()) as _);
    MarginHead::from_parts(head, weight.into_inner(), None)
}

fn embeddings() -> Result<Tensor> {
    Tensor::new(&[[2.0_f32, 0.3], [0.2, 1.5]], &CPU)
}

fn labels() -> Result<Tensor> {
    Tensor::new(&[0_u32, 2], &CPU)
}

fn scalar(loss: Tensor) -> Result<f32> {
    loss.to_scalar()
}

/// The core's error inside a candle error.
fn refused(step: Result<Tensor>) -> margin_softmax::Error {
    let error = step.expect_err("a refusal");
    refusal(&error).unwrap_or_else(|| panic!("not the core's: {error}")).clone()
}

#[test]
fn variables_are_named_weight_and_bias() -> Result<()> {
    let map = VarMap::new();
    let head = MarginHead::with_bias(Softmax::new(), 4, 6, fresh(&map, DType::F64).pp("head"))?;
    let mut names: Vec<String> = map.data().lock().expect("a map").keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["head.bias", "head.weight"]);
    assert_eq!((head.weight().dims(), head.weight().dtype()), (&[6, 4][..], DType::F64));
    assert_eq!(head.bias().map(|bias| bias.to_vec1::<f64>()).transpose()?, Some(vec![0.0; 6]));
    Ok(())
}

#[test]
fn fresh_class_weights_are_about_unit_vectors() -> Result<()> {
    let head = MarginHead::new(ArcFace::default(), 256, 40, fresh(&VarMap::new(), DType::F32))?;
    let norms = head.weight().sqr()?.sum(D::Minus1)?.to_vec1::<f32>()?;
    // The squared norm of 256 such numbers has mean 1 and deviation √(2/256) = 0.09.
    assert!(norms.iter().all(|&norm| (norm - 1.0).abs() < 0.6), "{norms:?}");
    Ok(())
}

#[test]
fn saved_variables_load_to_the_same_head() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("head.safetensors");
    let (saved, mut loaded) = (VarMap::new(), VarMap::new());
    let heads = [&saved, &loaded]
        .map(|map| MarginHead::with_bias(Softmax::new(), 2, 3, fresh(map, DType::F32).pp("head")));
    let [first, second] = heads.map(|head| head.expect("a head"));
    let step = |head: &MarginHead| scalar(head.forward(&embeddings()?, &labels()?)?);

    // One step, so that the bias differs from that of a new head.
    let mut optimizer = AdamW::new_lr(saved.all_vars(), 0.1)?;
    optimizer.backward_step(&first.forward(&embeddings()?, &labels()?)?)?;
    assert_ne!(step(&first)?, step(&second)?);

    saved.save(&path)?;
    loaded.load(&path)?;
    assert_eq!(step(&first)?, step(&second)?);
    let logits = |head: &MarginHead| head.logits(&embeddings()?)?.to_vec2::<f32>();
    assert_eq!(logits(&first)?, logits(&second)?);
    Ok(())
}

#[test]
fn labels_may_have_any_integer_type() -> Result<()> {
    let head = plane()?;
    let expected = scalar(head.forward(&embeddings()?, &labels()?)?)?;
    for dtype in [DType::U8, DType::I16, DType::I32, DType::I64] {
        let loss = head.forward(&embeddings()?, &labels()?.to_dtype(dtype)?)?;
        assert_eq!(scalar(loss)?, expected);
    }
    Ok(())
}

#[test]
fn any_strides_will_do() -> Result<()> {
    let head = plane()?;
    let straight = embeddings()?;
    let transposed = straight.t()?.contiguous()?.t()?;
    let sliced = Tensor::cat(&[&straight.zeros_like()?, &straight], 1)?.i((.., 2..))?;
    let expected = scalar(head.forward(&straight, &labels()?)?)?;
    for x in [transposed, sliced] {
        assert!(!x.is_contiguous());
        assert_eq!(scalar(head.forward(&x, &labels()?)?)?, expected);
        assert_eq!(head.logits(&x)?.to_vec2::<f32>()?, head.logits(&straight)?.to_vec2::<f32>()?);
    }
    let repeated = straight.i(0..1)?.broadcast_as((2, 2))?;
    let copied = repeated.force_contiguous()?;
    let pair = [repeated, copied].map(|x| head.forward(&x, &labels()?).and_then(scalar));
    let [repeated, copied] = pair;
    assert_eq!(repeated?, copied?);

    let turned = head.weight().t()?.contiguous()?.t()?;
    let core = Head::new(head.loss());
    let turned = MarginHead::from_parts(core, turned, None)?;
    assert_eq!(scalar(turned.forward(&straight, &labels()?)?)?, expected);
    Ok(())
}

#[test]
fn gradient_passes_through_half_precision() -> Result<()> {
    let x = Var::from_tensor(&embeddings()?.to_dtype(DType::BF16)?)?;
    let loss = plane()?.forward(&x.to_dtype(DType::F32)?, &labels()?)?;
    let gradients = loss.backward()?;
    let gradient = gradients.get(&x).expect("a gradient");
    assert_eq!((gradient.dtype(), gradient.dims()), (DType::BF16, &[2, 2][..]));
    Ok(())
}

#[test]
fn what_nobody_tracks_gets_no_gradient() -> Result<()> {
    let tracked = plane()?;
    let core = Head::new(tracked.loss());
    let constant = MarginHead::from_parts(core, tracked.weight().detach(), None)?;
    let loss = constant.forward(&embeddings()?, &labels()?)?;
    assert!(!loss.track_op());
    assert_eq!(scalar(loss)?, scalar(tracked.forward(&embeddings()?, &labels()?)?)?);

    let x = Var::from_tensor(&embeddings()?)?;
    let gradients = constant.forward(&x, &labels()?)?.backward()?;
    assert!(gradients.get(&x).is_some());
    Ok(())
}

#[test]
fn weights_and_bias_learn_from_constant_embeddings() -> Result<()> {
    let bias = Var::zeros(3, DType::F32, &CPU)?;
    for weight in [plane()?.weight().clone(), plane()?.weight().detach()] {
        let core = Head::new(Arc::new(Softmax::new()) as _);
        let head = MarginHead::from_parts(core, weight.clone(), Some(bias.as_tensor().clone()))?;
        let gradients = head.forward(&embeddings()?, &labels()?)?.backward()?;
        let gradient = gradients.get(&bias).expect("a gradient").to_vec1::<f32>()?;
        // Probabilities minus the one-hot labels, summed over the samples.
        assert!(gradient.iter().sum::<f32>().abs() < 1e-6 && gradient[1] > 0.1, "{gradient:?}");
        assert!(gradients.get(&weight).is_some() || !weight.is_variable());
    }
    Ok(())
}

#[test]
fn details_are_those_of_the_core() -> Result<()> {
    let head = plane()?;
    let Output { loss, forward, .. } =
        head.run::<f32>(&embeddings()?, &labels()?, Options::default())?;
    assert_eq!(scalar(loss)?, forward.mean());
    assert_eq!(forward, head.evaluate::<f32>(&embeddings()?, &labels()?)?);
    assert_eq!((forward.accuracy(), forward.predictions()), (0.5, &[0, 1][..]));
    assert_eq!(head.predict(&embeddings()?)?.to_vec1::<u32>()?, [0, 1]);
    let nearest = head.logits(&embeddings()?)?.argmax(D::Minus1)?;
    assert_eq!(nearest.to_vec1::<u32>()?, [0, 1]);
    Ok(())
}

#[test]
fn loss_changes_between_steps_of_a_head_and_its_clones() -> Result<()> {
    let head = plane()?;
    let clone = head.clone();
    let step = || clone.forward(&embeddings()?, &labels()?).and_then(scalar);
    let cosface = step()?;
    head.set_loss(SphereFace::default());
    assert_eq!(format!("{:?}", clone.loss()), format!("{:?}", SphereFace::default()));
    assert_ne!(step()?, cosface);
    head.set_loss(CosFace::default());
    assert_eq!(step()?, cosface);
    Ok(())
}

#[test]
fn zero_embedding_is_refused_unless_the_head_skips_it() -> Result<()> {
    let head = plane()?;
    let x = Tensor::new(&[[2.0_f32, 0.3], [0.0, 0.0]], &CPU)?;
    let error = refused(head.forward(&x, &labels()?));
    assert!(matches!(error, margin_softmax::Error::DegenerateNorm { row: 1, .. }), "{error}");

    let core = Head::new(head.loss()).with_zero_embeddings(ZeroEmbedding::Skip);
    let head = MarginHead::from_parts(core, head.weight().clone(), None)?;
    let alone = head.forward(&x.i(0..1)?, &labels()?.i(0..1)?)?;
    assert_eq!(scalar(head.forward(&x, &labels()?)?)?, scalar(alone)?);
    Ok(())
}

/// The error without the backtrace that candle adds if RUST_BACKTRACE is set.
fn bare<T>(refused: Result<T>) -> Error {
    let mut error = refused.err().expect("a refusal");
    while let Error::WithBacktrace { inner, .. } = error {
        error = *inner;
    }
    error
}

#[test]
fn label_out_of_range_is_named_with_its_row() -> Result<()> {
    let head = plane()?;
    let error = refused(head.forward(&embeddings()?, &Tensor::new(&[0_u32, 3], &CPU)?));
    assert_eq!(error, margin_softmax::Error::Label { row: 1, label: 3, classes: 3 });

    let error = refused(head.forward(&embeddings()?, &Tensor::new(&[0_i64, -1], &CPU)?));
    assert_eq!(error, margin_softmax::Error::LabelValue { row: 1, label: -1 });
    Ok(())
}

#[test]
fn refusal_reads_as_the_core_puts_it() -> Result<()> {
    let x = Tensor::new(&[[2.0_f32, 0.3], [f32::NAN, 1.0]], &CPU)?;
    let error = bare(plane()?.forward(&x, &labels()?));
    assert_eq!(error.to_string(), "embeddings[1, 0] is NaN: every entry must be finite");
    let wrapped = error.context("step 7");
    assert!(matches!(refusal(&wrapped), Some(margin_softmax::Error::NonFinite { row: 1, .. })));
    assert_eq!(refusal(&Error::msg("something else")), None);
    Ok(())
}

#[test]
fn shapes_that_do_not_agree_are_refused() -> Result<()> {
    let head = plane()?;
    let wide = Tensor::ones((2, 3), DType::F32, &CPU)?;
    let shape = margin_softmax::Error::Shape {
        argument: "class weights",
        expected: vec![3, 3],
        actual: vec![3, 2],
    };
    assert_eq!(refused(head.forward(&wide, &labels()?)), shape);
    assert_eq!(refused(head.logits(&wide)), shape);
    assert_eq!(refused(head.predict(&wide)), shape);
    let three = Tensor::new(&[0_u32, 1, 2], &CPU)?;
    let error = refused(head.forward(&embeddings()?, &three));
    assert!(matches!(error, margin_softmax::Error::Shape { argument: "labels", .. }));
    let none = Tensor::zeros((0, 2), DType::F32, &CPU)?;
    let error = refused(head.forward(&none, &Tensor::zeros(0, DType::U32, &CPU)?));
    assert!(matches!(error, margin_softmax::Error::Empty { argument: "embeddings", .. }));

    assert!(head.forward(&embeddings()?.i(0)?, &labels()?).is_err());
    assert!(head.forward(&embeddings()?, &labels()?.unsqueeze(1)?).is_err());
    Ok(())
}

#[test]
fn types_that_do_not_agree_are_refused() -> Result<()> {
    let head = plane()?;
    for dtype in [DType::F64, DType::BF16, DType::F16, DType::U32] {
        let x = embeddings()?.to_dtype(dtype)?;
        for step in [head.forward(&x, &labels()?), head.logits(&x), head.predict(&x)] {
            let text = bare(step).to_string();
            let expected = format!(
                "embeddings take the type of the class weights, expected: F32, got: {dtype:?}"
            );
            assert_eq!(text, expected);
        }
    }
    let error = bare(head.evaluate::<f64>(&embeddings()?, &labels()?));
    assert!(matches!(error, Error::UnexpectedDType { got: DType::F32, .. }), "{error}");
    let error = bare(head.forward(&embeddings()?, &labels()?.to_dtype(DType::F32)?));
    assert!(matches!(error, Error::UnsupportedDTypeForOp(DType::F32, _)), "{error}");
    Ok(())
}

#[test]
fn products_are_rounded_where_the_head_is_told_so() -> Result<()> {
    let found = plane()?.with_settings(Settings::default().with_precision(Precision::Bf16));
    let found = found.evaluate::<f32>(&embeddings()?, &labels()?)?;
    let numbers = |of: &Tensor| of.flatten_all()?.to_vec1::<f32>();
    let (x, w) = (numbers(&embeddings()?)?, numbers(plane()?.weight())?);
    let batch = Batch::from_slices(&x, &w, &[0, 2], 2).expect("whole rows");
    let core = Head::new(CosFace::default());
    assert_ne!(Ok(&found), core.forward(&batch).as_ref());
    assert_eq!(Ok(found), core.with_precision(Precision::Bf16).forward(&batch));
    let vb = fresh(&VarMap::new(), DType::F64);
    let double = MarginHead::new(CosFace::default(), 2, 3, vb)?
        .with_settings(Settings::default().with_precision(Precision::Bf16));
    let error = refused(double.forward(&embeddings()?.to_dtype(DType::F64)?, &labels()?));
    assert_eq!(error, margin_softmax::Error::Precision);
    Ok(())
}

#[test]
fn head_that_cannot_be_is_refused() -> Result<()> {
    let vb = |dtype| fresh(&VarMap::new(), dtype);
    let new = |dims, classes, dtype| MarginHead::new(ArcFace::default(), dims, classes, vb(dtype));
    let core = |head: Result<MarginHead>| refused(head.map(|head| head.weight().clone()));
    let empty = |dims: usize, classes: usize| margin_softmax::Error::Empty {
        argument: "class weights",
        actual: vec![classes, dims],
    };
    assert_eq!(core(new(0, 3, DType::F32)), empty(0, 3));
    assert_eq!(core(new(3, 0, DType::F32)), empty(3, 0));
    for dtype in [DType::BF16, DType::F16] {
        let error = bare(new(3, 3, dtype));
        assert!(matches!(error, Error::UnsupportedDTypeForOp(..)), "{error}");
    }
    let head = MarginHead::with_bias(ArcFace::default(), 3, 3, vb(DType::F32));
    assert_eq!(core(head), margin_softmax::Error::Bias);

    let softmax = || Head::new(Arc::new(Softmax::new()) as _);
    let weight = Tensor::ones((3, 2), DType::F32, &CPU)?;
    let short = Some(Tensor::zeros(2, DType::F32, &CPU)?);
    let error = core(MarginHead::from_parts(softmax(), weight.clone(), short));
    assert!(matches!(error, margin_softmax::Error::Shape { argument: "bias", .. }));
    let double = Some(Tensor::zeros(3, DType::F64, &CPU)?);
    let error = bare(MarginHead::from_parts(softmax(), weight, double));
    assert!(matches!(error, Error::UnexpectedDType { got: DType::F64, .. }), "{error}");
    Ok(())
}

#[test]
fn angular_loss_set_on_a_head_with_bias_is_refused_at_the_step() -> Result<()> {
    let vb = fresh(&VarMap::new(), DType::F32);
    let head = MarginHead::with_bias(Softmax::new(), 2, 3, vb)?;
    head.set_loss(ArcFace::default());
    let error = refused(head.forward(&embeddings()?, &labels()?));
    assert_eq!(error, margin_softmax::Error::Bias);
    Ok(())
}
