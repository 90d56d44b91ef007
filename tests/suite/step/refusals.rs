//! A refused step leaves everything as it was.

use super::*;

#[test]
fn a_refused_step_leaves_everything_as_it_was() {
    type Spoil = fn(&mut Inputs<f32>, &mut Moved<f32, Sgd<f32>>);
    let spoils: [(&str, Spoil); 7] = [
        ("embeddings[1, 0] is NaN", |inputs, _| inputs.x[[1, 0]] = f32::NAN),
        ("class weights[19, 2] is inf", |_, moved| moved.w[[19, 2]] = f32::INFINITY),
        ("class weights[3] has norm 0", |_, moved| moved.w.row_mut(3).fill(0.0)),
        ("gradients of embeddings has shape [3, 3]", |_, moved| moved.dx = Array2::ones((3, 3))),
        ("the new value of a class weight", |_, moved| moved.update.set_rate(1e38).unwrap()),
        ("class weights has shape [20, 3]", |_, moved| {
            moved.update.apply(&mut Array2::ones((5, 3)), &Array2::zeros((5, 3))).unwrap();
        }),
        ("reduction weights", |inputs, _| inputs.upstream = Array1::zeros(3)),
    ];
    for (said, spoil) in spoils {
        let mut inputs = problem(9, (4, 3, 20), false).inputs::<f32>([Layout::Standard; 2]);
        let mut moved = Moved::new(&inputs, momentum());
        spoil(&mut inputs, &mut moved);
        let before = format!("{moved:?} {:?}", moved.update.momentum_buffer());
        let head = Head::new(Spec::Modified.build());
        let upstream = inputs.upstream.clone();
        let error = moved.fused(&head, &inputs, Reduction::Weighted(&upstream)).unwrap_err();
        if !said.starts_with("the new value") {
            assert!(error.to_string().contains(said), "{error}");
        } else {
            assert!(matches!(error, Error::Overflow { .. }), "{error}");
        }
        assert_eq!(format!("{moved:?} {:?}", moved.update.momentum_buffer()), before);
    }
}

/// The momentum of an earlier step is there to be lost.
#[test]
fn a_refused_sampled_step_leaves_everything_as_it_was() {
    type Spoil = fn(&mut ClassSample, &mut Moved<f32, Sgd<f32>>);
    type Expected = fn(&Error) -> bool;
    let spoils: [(Spoil, Expected); 6] = [
        (
            |sample, _| sample.classes.swap(0, 1),
            |error| matches!(error, Error::Sample { field: "classes", position: 1 }),
        ),
        (
            |sample, _| sample.labels[2] = ClassSample::ABSENT,
            |error| matches!(error, Error::Sample { field: "labels", position: 2 }),
        ),
        (
            |sample, _| *sample = ClassSampler::new(50, 0.5, 1).unwrap().sample(&[0; 4]).unwrap(),
            |error| matches!(error, Error::Sample { field: "classes", position: 9 }),
        ),
        (
            |sample, moved| moved.w[[sample.classes[3], 1]] = f32::NAN,
            |error| matches!(error, Error::NonFinite { column: 1, .. }),
        ),
        (
            |_, moved| moved.update.set_rate(1e38).unwrap(),
            |error| matches!(error, Error::Overflow { .. }),
        ),
        (
            |_, moved| moved.dx = Array2::ones((3, 3)),
            |error| matches!(error, Error::Shape { argument: "gradients of embeddings", .. }),
        ),
    ];
    for (case, (spoil, expected)) in spoils.into_iter().enumerate() {
        let inputs = problem(13, (4, 3, 20), false).inputs::<f32>([Layout::Standard; 2]);
        let mut sample = ClassSampler::new(20, 0.5, 2).unwrap().sample(&inputs.labels).unwrap();
        let mut moved = Moved::new(&inputs, momentum());
        let head = Head::new(Spec::Modified.build());
        moved.fused(&head, &inputs, Reduction::Mean).unwrap();
        spoil(&mut sample, &mut moved);
        let before = format!("{moved:?} {:?}", moved.update.momentum_buffer());
        let Moved { w, b, update, dx } = &mut moved;
        let batch = Moved::<f32, Sgd<f32>>::batch(&inputs, w, b);
        let error =
            head.step(&mut batch.with_sample(&sample), Reduction::Mean, update, dx).unwrap_err();
        assert!(expected(&error), "case {case}: {error}");
        assert_eq!(format!("{moved:?} {:?}", moved.update.momentum_buffer()), before);
    }
}
