use std::num::NonZero;
use std::thread;

/// Fewer bytes than this are not worth a thread.
const LEAST_BYTES: usize = 1 << 18;

/// Has `fill` write each piece of `size` bytes, of which it is given the number: on all processors where that pays.
pub(super) fn fill_pieces(bytes: &mut [u8], size: usize, fill: impl Fn(usize, &mut [u8]) + Sync) {
    if size == 0 {
        return;
    }
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let pieces = bytes.len().div_ceil(threads).max(LEAST_BYTES).div_ceil(size);
    thread::scope(|scope| {
        for (share, bytes) in bytes.chunks_mut(pieces * size).enumerate() {
            let fill = &fill;
            scope.spawn(move || {
                for (piece, bytes) in bytes.chunks_mut(size).enumerate() {
                    fill(share * pieces + piece, bytes);
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_filled_once() {
        let mut bytes = vec![0; 3 * LEAST_BYTES + 5];
        fill_pieces(&mut bytes, 7, |number, piece| piece.iter_mut().for_each(|byte| *byte += number as u8 | 1));
        assert!(bytes.chunks(7).enumerate().all(|(number, piece)| piece.iter().all(|byte| *byte == number as u8 | 1)));
        fill_pieces(&mut [], 0, |_, _| unreachable!("nothing to fill"));
    }
}
