//! Updates with their state as they are written and read: bit for bit, and checked.

use ndarray::array;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;

fn through_every_format<T: Serialize + DeserializeOwned>(value: &T) -> [T; 4] {
    let mut cbor = Vec::new();
    ciborium::into_writer(value, &mut cbor).unwrap();
    [
        serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap(),
        toml::from_str(&toml::to_string(value).unwrap()).unwrap(),
        postcard::from_bytes(&postcard::to_stdvec(value).unwrap()).unwrap(),
        ciborium::from_reader(cbor.as_slice()).unwrap(),
    ]
}

#[test]
fn an_update_comes_back_bit_for_bit() {
    fn check<F: Real, U: Update<F> + Serialize + DeserializeOwned>(update: U) {
        let rng = &mut Rng::new(16);
        let (mut w, mut b) = (matrix::<F>(rng, 5, 3), vector::<F>(rng, 5));
        let mut used = update.clone();
        for _ in 0..3 {
            used.apply(&mut w, &matrix(rng, 5, 3)).unwrap();
            used.apply_rows(&mut w, &[1, 3], &matrix(rng, 2, 3)).unwrap();
        }
        let without_bias = used.clone();
        used.apply_bias(&mut b, &vector(rng, 5)).unwrap();
        for update in [update, without_bias, used] {
            let bytes = postcard::to_stdvec(&update).unwrap();
            for mut read in through_every_format(&update) {
                assert_same_state(&read, &update, "read again");
                assert_eq!(postcard::to_stdvec(&read).unwrap(), bytes);
                // The next steps are the same.
                let (mut update, mut w, mut other) = (update.clone(), w.clone(), w.clone());
                let gradient = matrix::<F>(rng, 5, 3);
                update.apply(&mut w, &gradient).unwrap();
                read.apply(&mut other, &gradient).unwrap();
                assert_bits(&other, &w, "a step later");
            }
        }
    }
    for_every_update!(check);
}

#[test]
fn what_is_left_out_is_the_default() {
    let sgd: Sgd<f32> = serde_json::from_str(r#"{ "rate": 0.1 }"#).unwrap();
    assert_eq!(sgd, Sgd::new(0.1).unwrap());
    let adamw: AdamW<f32> = serde_json::from_str(r#"{ "rate": 0.1 }"#).unwrap();
    assert_eq!(adamw, AdamW::new(0.1).unwrap());
}

fn refusal<T: DeserializeOwned>(json: &str) -> String {
    match serde_json::from_str::<T>(json) {
        Ok(_) => panic!("{json} is accepted"),
        Err(refusal) => refusal.to_string(),
    }
}

#[test]
fn what_is_no_update_is_refused() {
    let momentum = |fields: &str, more: &str| {
        format!(r#"{{ "rate": 0.1, "momentum": 0.9, "weights": {{ {fields} }} {more} }}"#)
    };
    let good = r#""rows": 2, "dims": 1, "momentum": [0.5, 1]"#;
    serde_json::from_str::<Sgd<f64>>(&momentum(good, "")).unwrap();
    for (json, expected) in [
        (momentum(&good.replace("2", "3"), ""), "momentum has shape [2]"),
        (momentum(&good.replace("1,", "0,"), ""), "no axis may be empty"),
        (
            momentum(&good.replace("2", "9223372036854775807").replace("1,", "4,"), ""),
            "momentum has shape [2]",
        ),
        (momentum(&good.replace("0.5", "\"x\""), ""), "weights.momentum[0]: invalid type"),
        (momentum(good, r#", "nesterow": true"#), "unknown field `nesterow`"),
        (
            momentum(good, r#", "bias": { "rows": 3, "dims": 1, "momentum": [1, 1, 1] }"#),
            "state of the bias has shape [3, 1], but the other arguments require [2, 1]",
        ),
        (
            momentum(good, r#", "bias": { "rows": 2, "dims": 2, "momentum": [1, 1, 1, 1] }"#),
            "state of the bias has shape [2, 2]",
        ),
        (
            momentum(good, "").replace("0.9", "0"),
            "momentum must be in (0, 1) where rows have one, got 0",
        ),
        (momentum(good, "").replace("0.9", "1.5"), "momentum must be in [0, 1), got 1.5"),
        (r#"{ "momentum": 0.9 }"#.into(), "missing field `rate`"),
    ] {
        let said = refusal::<Sgd<f64>>(&json);
        assert!(said.contains(expected), "{said}");
    }
    // A number that only f64 has is infinite in f32.
    let large: Sgd<f64> =
        serde_json::from_str(&momentum(&good.replace("0.5", "1e300"), "")).unwrap();
    let mut bytes = Vec::new();
    ciborium::into_writer(&large, &mut bytes).unwrap();
    let said = ciborium::from_reader::<Sgd<f32>, _>(&bytes[..]).err().unwrap().to_string();
    assert!(said.contains("momentum[0, 0] is inf"), "{said}");

    let moments = r#"{ "rate": 0.1, "weights":
        { "dims": 2, "steps": [7], "first": [0, -1], "second": [0, 1] } }"#;
    serde_json::from_str::<AdamW<f64>>(moments).unwrap();
    for (from, to, expected) in [
        ("[0, 1]", "[0, -1]", "second moment must be >= 0, got -1"),
        ("[0, 1]", "[0]", "second moments has shape [1]"),
        ("[7]", "[7, 7]", "first moments has shape [2]"),
        ("[7]", "[-7]", "weights.steps[0]: invalid value"),
        ("[7]", "[9007199254740993]", "number of steps of a row must be at most 2^53"),
        ("[7]", "[18446744073709551615]", "number of steps of a row must be at most 2^53"),
    ] {
        let said = refusal::<AdamW<f64>>(&moments.replace(from, to));
        assert!(said.contains(expected), "{said}");
    }
}

/// More entries in a row than any memory holds, which no rows make an array without numbers.
#[test]
fn rows_of_absurd_length_are_refused() {
    let said = refusal::<Sgd<f32>>(
        r#"{ "rate": 0.1, "momentum": 0.9,
             "weights": { "rows": 0, "dims": 18446744073709551615, "momentum": [] } }"#,
    );
    assert!(said.contains("momentum has shape [0]"), "{said}");
    let said = refusal::<AdamW<f32>>(
        r#"{ "rate": 0.1, "weights":
             { "dims": 18446744073709551615, "steps": [], "first": [], "second": [] } }"#,
    );
    assert!(said.contains("first moments has shape [0]"), "{said}");
    // Read, but nothing can be added to it.
    let mut long: Sgd<f32> = serde_json::from_str(
        r#"{ "rate": 0.1, "momentum": 0.9,
             "weights": { "rows": 0, "dims": 9223372036854775807, "momentum": [] } }"#,
    )
    .unwrap();
    assert!(matches!(long.extend(3), Err(Error::Parameter { .. })));
}

#[test]
fn the_count_of_steps_stops_before_it_overflows() {
    let most = 1_u64 << 53;
    let json = r#"{ "rate": 0.1, "weights":
        { "dims": 1, "steps": [9007199254740991], "first": [0.5], "second": [0.25] } }"#;
    let mut update: AdamW<f64> = serde_json::from_str(json).unwrap();
    let mut w = array![[1.0]];
    for steps in [most, most, most] {
        let before = w[[0, 0]];
        update.apply(&mut w, &array![[0.5]]).unwrap();
        assert_eq!(update.steps().unwrap(), [steps]);
        // A correction of 1: the row moves by the rate and by 1 - 0.1 * 0.01.
        approx::assert_relative_eq!(w[[0, 0]], 0.999 * before - 0.1, max_relative = 1e-6);
    }
    for read in through_every_format(&update) {
        assert_same_state(&read, &update, "read again");
    }
}
