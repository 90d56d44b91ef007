//! Collective operations transfer all numbers, in order, with the same bits on every rank.

mod support;

use std::process::ExitCode;
use std::time::Duration;

use margin_softmax::ranks::Collective;
use margin_softmax::{Error, Real};
use margin_softmax_mpi::MpiCollective;
use margin_softmax_mpi::mpi::topology::SimpleCommunicator;
use margin_softmax_mpi::mpi::traits::{Communicator, Destination, Equivalence, Source};
use support::{on_ranks, on_timed_ranks, said};

/// The values of `rank`: of very different sizes, so that the order of summation matters.
fn values<F: Real>(rank: usize, count: usize) -> Vec<F> {
    let value = |i: usize| {
        let turns = (rank + 1) as f64 * ((i + 2) as f64).sqrt();
        (turns.fract() - 0.5) * 10.0_f64.powi((i * 7 + rank * 5) as i32 % 9)
    };
    (0..count).map(|i| F::from(value(i)).unwrap()).collect()
}

/// The concatenated values of all ranks.
fn joined<F: Real>(size: usize, count: usize, join: impl Fn(F, F) -> F) -> Vec<F> {
    let ranks = (1..size).map(|rank| values::<F>(rank, count));
    ranks.fold(values(0, count), |all, rank| {
        all.into_iter().zip(rank).map(|(a, b)| join(a, b)).collect()
    })
}

fn check_reductions<F: Real + Equivalence>(collective: &MpiCollective) -> Result<(), Error> {
    let (rank, size) = (collective.rank(), collective.size());
    for count in [0, 1, 2, 3, 5, 64, 1000, 50_000] {
        let mut sums = values::<F>(rank, count);
        collective.all_reduce_sum(&mut sums)?;
        assert!(sums == joined(size, count, |a, b| a + b), "{count} sums on {size} ranks");
        let mut maxima = values::<F>(rank, count);
        collective.all_reduce_max(&mut maxima)?;
        assert!(maxima == joined(size, count, F::max), "{count} maxima on {size} ranks");
    }
    let mut values = [F::neg_infinity(), F::neg_infinity()];
    if rank + 1 == size {
        values[1] = F::one();
    }
    collective.all_reduce_max(&mut values)?;
    assert_eq!(values, [F::neg_infinity(), F::one()]);
    Ok(())
}

#[test]
fn every_rank_gets_the_bits_of_the_ranks_order() -> ExitCode {
    on_ranks(&[1, 2, 3, 4], |collective| {
        check_reductions::<f32>(collective)?;
        check_reductions::<f64>(collective)
    })
}

fn check_gathers(collective: &MpiCollective) -> Result<(), Error> {
    let (rank, size) = (collective.rank(), collective.size());
    for lengths in [[0, 0, 0, 0], [7, 0, 3, 1], [0, 20_000, 0, 1], [1, 2, 3, 70_000]] {
        let expected: Vec<f64> = (0..size).flat_map(|rank| values(rank, lengths[rank])).collect();
        assert!(collective.all_gather(&values::<f64>(rank, lengths[rank]))? == expected);
    }
    Ok(())
}

#[test]
fn ranks_gather_any_number_of_values_each() -> ExitCode {
    // A closure has the name of the test, by which ranks run it.
    on_ranks(&[1, 2, 3, 4], |collective| {
        check_gathers(collective)?;
        Ok::<_, Error>(())
    })
}

/// Non-blocking calls, on a thread of their own.
#[test]
fn calls_with_a_timeout_transfer_the_same_numbers() -> ExitCode {
    on_timed_ranks(Duration::from_secs(60), &[1, 2, 3, 4], |collective| {
        check_reductions::<f32>(collective)?;
        check_reductions::<f64>(collective)?;
        check_gathers(collective)
    })
}

/// A piece holds 2²⁴ numbers.
#[test]
fn lengths_beyond_one_piece_come_through() -> ExitCode {
    on_ranks(&[2], |collective| {
        let count = (1 << 24) + 3;
        let number = |i: usize| (i % 1021) as f32;
        let mut sums: Vec<f32> = (0..count).map(number).collect();
        collective.all_reduce_sum(&mut sums)?;
        assert!(sums.iter().enumerate().all(|(i, &sum)| sum == 2.0 * number(i)));
        // Half a piece for each of the two ranks.
        let own = [(1 << 23) + 5, 11][collective.rank()];
        let all = collective.all_gather(&sums[..own])?;
        assert_eq!(all.len(), (1 << 23) + 16);
        assert!(all[..(1 << 23) + 5] == sums[..(1 << 23) + 5]);
        assert!(all[(1 << 23) + 5..] == sums[..11]);
        Ok::<_, Error>(())
    })
}

#[test]
fn calls_that_do_not_match_are_the_same_error_on_every_rank() -> ExitCode {
    on_ranks(&[3], |collective| {
        let rank = collective.rank();
        let other_length = collective.all_reduce_sum(&mut vec![1.0_f32; 1 + rank / 2]);
        let (at_fault, reason) = said(other_length.unwrap_err());
        assert_eq!((at_fault, &reason[..]), (2, "all_reduce_sum of 2 values, rank 0's 1"));

        let other_call = match rank {
            1 => collective.all_gather(&[1.0_f32]).map(drop),
            _ => collective.all_reduce_max(&mut [1.0_f32]),
        };
        let (at_fault, reason) = said(other_call.unwrap_err());
        assert_eq!(
            (at_fault, &reason[..]),
            (1, "calls all_gather where rank 0 calls all_reduce_max")
        );

        let other_type = match rank {
            0 => collective.all_gather(&[1.0_f32]).map(drop),
            _ => collective.all_gather(&[1.0_f64]).map(drop),
        };
        let (at_fault, reason) = said(other_type.unwrap_err());
        assert_eq!((at_fault, &reason[..]), (1, "all_gather of numbers of 8 bytes, rank 0's of 4"));

        // The next call succeeds again.
        let mut values = [1.0_f64];
        collective.all_reduce_sum(&mut values)?;
        assert_eq!(values, [3.0]);
        Ok::<_, Error>(())
    })
}

/// A message in flight during the calls, with the most obvious tag.
#[test]
fn other_traffic_does_not_mix_in() -> ExitCode {
    on_ranks(&[2], |collective| {
        let world = SimpleCommunicator::world();
        let other = world.process_at_rank(1 - world.rank());
        if world.rank() == 0 {
            other.send(&[7.0_f64; 3][..]);
        }
        let mut values = [1.0_f64; 3];
        collective.all_reduce_sum(&mut values)?;
        assert_eq!(values, [2.0; 3]);
        if world.rank() == 1 {
            assert_eq!(other.receive_vec::<f64>().0, [7.0; 3]);
        }
        Ok::<_, Error>(())
    })
}

/// A subset of the ranks, in a different order.
#[test]
fn a_part_of_the_ranks_is_a_group_of_its_own() -> ExitCode {
    use margin_softmax_mpi::mpi::topology::Color;
    on_ranks(&[4], |collective| {
        let world = SimpleCommunicator::world();
        let color = Color::with_value(i32::from(world.rank() == 2));
        let part = world.split_by_color_with_key(color, -world.rank()).ok_or("no part").unwrap();
        let part = MpiCollective::new(&part);
        let gathered = part.all_gather(&[collective.rank() as f32])?;
        let expected: &[f32] = if collective.rank() == 2 { &[2.0] } else { &[3.0, 1.0, 0.0] };
        assert_eq!(gathered, expected);
        Ok::<_, Error>(())
    })
}
