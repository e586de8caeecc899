//! Padding, so that the size of an answer says little of what is in it to who watches the wire.

/// Answers fill at least this many bytes, the line's end included.
const LEAST: usize = 1024;

/// Fills an answer up with spaces before its last bracket, so that with its line's end it is as long as the next power
/// of two. ElectrumX 2 does the same, though it also holds answers back, which we don't.
pub fn pad(answer: &mut Vec<u8>) {
    let length = answer.len() + 1;
    let Some(bracket) = answer.pop() else { return };
    let padded = length.next_power_of_two().max(LEAST);
    answer.resize(padded - 2, b' ');
    answer.push(bracket);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_grow_to_powers_of_two() {
        for (length, expected) in [(2, 1023), (1022, 1023), (1023, 1023), (1024, 2047), (5000, 8191)] {
            let mut answer = vec![b'x'; length];
            answer[length - 1] = b'}';
            pad(&mut answer);
            assert_eq!(answer.len(), expected, "of {length}");
            assert_eq!(answer.last(), Some(&b'}'));
        }
        let mut json = br#"{"id":1,"result":null}"#.to_vec();
        pad(&mut json);
        assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
    }
}
