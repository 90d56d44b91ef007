//! Images as they are seen while training.

use rand::RngExt;
use rand_pcg::Pcg64;

/// Red, green and blue.
pub const CHANNELS: usize = 3;

/// While training, an image is moved by up to this share of its size,
const LARGEST_MOVE: f32 = 0.1;

/// and each entry of the linear map that it goes through is changed by up to this.
const LARGEST_CHANGE: f32 = 0.1;

/// How an image is changed, so that the network learns what does not matter: a linear map of the
/// plane around the middle of the image, and a move.
pub struct View {
    map: [[f32; 2]; 2],
    moved: [f32; 2],
}

impl View {
    /// The image as it is.
    pub const PLAIN: View = View { map: [[1.0, 0.0], [0.0, 1.0]], moved: [0.0, 0.0] };

    /// Turned, stretched, slanted and moved a little, and mirrored half of the time.
    pub fn random(size: usize, mirror: bool, random: &mut Pcg64) -> Self {
        let View { mut map, mut moved } = View::PLAIN;
        map.as_flattened_mut().iter_mut().for_each(|entry| {
            *entry += random.random_range(-LARGEST_CHANGE..LARGEST_CHANGE);
        });
        moved.iter_mut().for_each(|by| {
            *by = size as f32 * random.random_range(-LARGEST_MOVE..LARGEST_MOVE);
        });
        if mirror && random.random() {
            map.iter_mut().for_each(|row| row[1] = -row[1]);
        }
        View { map, moved }
    }

    /// Appends the pixels, channel by channel.
    pub fn append(&self, pixels: &[u8], size: usize, values: &mut Vec<f32>) {
        let middle = (size - 1) as f32 / 2.0;
        for channel in 0..CHANNELS {
            for place in 0..size * size {
                let at = [(place / size) as f32 - middle, (place % size) as f32 - middle];
                let [y, x] = [0, 1].map(|axis| {
                    let [by_y, by_x] = self.map[axis];
                    by_y * at[0] + by_x * at[1] + self.moved[axis] + middle
                });
                values.push(between(pixels, size, channel, y, x) / 127.5 - 1.0);
            }
        }
    }
}

/// The value at a place between pixels; outside the image, that of its edge.
fn between(pixels: &[u8], size: usize, channel: usize, y: f32, x: f32) -> f32 {
    let last = (size - 1) as f32;
    let (y, x) = (y.clamp(0.0, last), x.clamp(0.0, last));
    let (top, left) = (y as usize, x as usize);
    let (bottom, right) = ((top + 1).min(size - 1), (left + 1).min(size - 1));
    let (down, along) = (y - top as f32, x - left as f32);
    let pixel = |y: usize, x: usize| f32::from(pixels[(y * size + x) * CHANNELS + channel]);
    let mixed = |y: usize| pixel(y, left) * (1.0 - along) + pixel(y, right) * along;
    mixed(top) * (1.0 - down) + mixed(bottom) * down
}
