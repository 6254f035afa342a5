//! A grey picture, and how it comes out of a JPEG.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Longest accepted side in pixels: bounds the memory of a hostile header to 16 MiB.
const MAX_SIDE: usize = 4096;
/// Shortest useful side in pixels: the gradient needs a neighbour on each side.
const MIN_SIDE: usize = 16;

/// Brightness per pixel, row by row, top left first; 0 is black, 255 is white.
pub struct Gray {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height` pixels.
    pub pixels: Vec<u8>,
}

impl Gray {
    /// One row of pixels.
    pub fn row(&self, y: usize) -> &[u8] {
        &self.pixels[y * self.width..(y + 1) * self.width]
    }
}

/// Decodes the brightness of a JPEG; a damaged one is an error, not a grey patch.
pub fn decode(jpeg: &[u8]) -> Result<Gray, String> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_out_colorspace(ColorSpace::Luma);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
    let pixels = decoder.decode().map_err(|error| one_line(&error.to_string()))?;
    let (width, height) = decoder.dimensions().ok_or("the JPEG has no size")?;
    if width < MIN_SIDE || height < MIN_SIDE {
        return Err(format!("the frame is {width}x{height} pixels, less than {MIN_SIDE}x{MIN_SIDE}"));
    }
    if pixels.len() != width * height {
        return Err(format!("{} bytes of brightness for {width}x{height} pixels", pixels.len()));
    }
    Ok(Gray { width, height, pixels })
}

/// The decoder's message in one line of bounded length.
fn one_line(message: &str) -> String {
    let short: String = message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect();
    format!("not a sound JPEG: {short}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::decode;
    use jpeg_encoder::{ColorType, Encoder};

    /// A colour JPEG of grey pixels, as a camera would send it.
    pub(crate) fn encoded(width: u16, height: u16, pixel: impl Fn(u16, u16) -> u8) -> Vec<u8> {
        let rgb: Vec<u8> = (0..height)
            .flat_map(|y| (0..width).map(move |x| (x, y)))
            .flat_map(|(x, y)| [pixel(x, y); 3])
            .collect();
        let mut jpeg = Vec::new();
        Encoder::new(&mut jpeg, 90).encode(&rgb, width, height, ColorType::Rgb).unwrap();
        jpeg
    }

    #[test]
    fn gives_back_the_brightness() {
        let image = decode(&encoded(64, 32, |x, _| if x < 32 { 30 } else { 220 })).unwrap();
        assert_eq!((image.width, image.height), (64, 32));
        assert!(image.row(16)[4].abs_diff(30) < 6 && image.row(16)[60].abs_diff(220) < 6);
    }

    #[test]
    fn refuses_a_frame_too_small_to_look_at() {
        assert!(decode(&encoded(8, 8, |_, _| 0)).is_err_and(|error| error.contains("8x8")));
    }
}
