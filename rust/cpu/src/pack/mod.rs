//! Weights in the order the kernels read them: one layout for every instruction set, for decode and for prefill.
//!
//! ```text
//!   W, [out_features, in_features]           panels of 16 output rows, k-major
//!
//!          k=0   1   2  ...                  panel 0            panel 1
//!   row 0 [ a0  a1  a2 ]                     k=0: a0 b0 ... p0   k=0: rows 16 to 31
//!   row 1 [ b0  b1  b2 ]          ──►        k=1: a1 b1 ... p1   ...
//!   ...                                      k=2: a2 b2 ... p2
//!   row 15[ p0  p1  p2 ]                     ...
//!
//!   float32, float16    [k][16]        one vector is one k of sixteen outputs
//!   bfloat16            [k/2][16][2]   a0 a1 b0 b1 ... : the operand of a dot-product instruction; without one, a shift and a
//!                                      mask make two float32 vectors of it
//!   int8                [k/4][16][4]   codes + 128; a float32 scale for every output beside the panels
//!   int4                [groups] of: 16 float16 scales, 16 zero points (if any), [group/8][16][4] codes, those of
//!                                      k 0 to 3 in the low halves of the bytes and of k 4 to 7 in the high ones
//! ```
//!
//! Output rows past the end of the last panel, and a row's elements past the end of a step or group, are zeros.
//! A panel is made in two moves: its rows are converted to words of four bytes, and the words transposed, sixteen by sixteen.

mod rows;

use std::any::Any;

use rustllm_ops::{DType, HostMatrix, Result, Storage, WeightFormat, checked_size};

use crate::kernels::Kernels;
use crate::memory::AlignedBytes;
use crate::simd::LANES;

pub(crate) use rows::{decode_row, quantize_int4, quantize_int8, split_pairs, transpose_words};

/// What is added to int8 codes, so that they are unsigned.
pub(crate) const INT8_ZERO: u8 = 128;

/// The code that stands for zero in symmetric int4.
pub(crate) const INT4_ZERO: u8 = 8;

/// Bytes of a checkpoint after whose packing their pages are given back.
const RELEASE_BYTES: usize = 1 << 20;

/// Where the elements of a weight are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) format: WeightFormat,
    pub(crate) out_features: usize,
    pub(crate) in_features: usize,
}

impl Layout {
    /// Number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.out_features.div_ceil(LANES)
    }

    /// Groups of a row: those of int4, else one.
    fn groups(&self) -> usize {
        match self.format {
            WeightFormat::Int4 { group_size, .. } => self.in_features.div_ceil(group_size),
            _ => 1,
        }
    }

    /// Bytes before each group's words.
    fn header_bytes(&self) -> usize {
        match self.format {
            WeightFormat::Int4 { symmetric: true, .. } => 2 * LANES,
            WeightFormat::Int4 { symmetric: false, .. } => 3 * LANES,
            _ => 0,
        }
    }

    /// Words of four bytes of a row of a group: what is transposed.
    fn group_words(&self) -> usize {
        match self.format {
            WeightFormat::Dense(DType::F32) => self.in_features,
            WeightFormat::Dense(DType::F16 | DType::BF16) => self.in_features.div_ceil(2),
            WeightFormat::Int8 => self.in_features.div_ceil(4),
            WeightFormat::Int4 { group_size, .. } => group_size / 8,
        }
    }

    /// Bytes of a panel.
    pub(crate) fn panel_bytes(&self) -> usize {
        self.groups() * (self.header_bytes() + self.group_words() * 4 * LANES)
    }
}

/// A weight's panels.
#[derive(Debug)]
pub(crate) struct PackedWeight {
    layout: Layout,
    panels: AlignedBytes,
    /// A float32 for every output of every panel; of int8.
    scales: AlignedBytes,
}

impl Storage for PackedWeight {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl PackedWeight {
    /// Room for a packed weight, all zero.
    pub(crate) fn zeroed(layout: Layout) -> Result<Self> {
        let size = checked_size(&[layout.panels(), layout.panel_bytes()], "a weight")?;
        let scaled = if layout.format == WeightFormat::Int8 { layout.panels() * LANES * size_of::<f32>() } else { 0 };
        let (panels, scales) = (AlignedBytes::huge(size, "a weight")?, AlignedBytes::zeroed(scaled, "a weight")?);
        Ok(Self { layout, panels, scales })
    }

    /// Format and sizes.
    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// The first panel.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.panels.as_ptr()
    }

    /// The scales of int8's outputs.
    pub(crate) fn scales(&self) -> *const f32 {
        self.scales.as_ptr().cast()
    }

    /// Panels that one task should pack.
    pub(crate) fn task_panels(&self, parts: &[HostMatrix<'_>]) -> usize {
        let row_bytes = parts.iter().map(|part| part.cols * part.dtype.size()).max().unwrap_or(0);
        RELEASE_BYTES.div_ceil((row_bytes * LANES).max(1))
    }

    /// Writes panels `first .. last`: rows `16 * first ..` of the parts, one part's rows after another's.
    ///
    /// # Safety
    /// Nobody else reads or writes those panels meanwhile, they exist, and the machine runs `kernels`.
    pub(crate) unsafe fn pack(&self, kernels: &Kernels, parts: &[HostMatrix<'_>], first: usize, last: usize) {
        let mut panel = Panel::new(self.layout);
        for index in first..last {
            for lane in 0..LANES {
                match find_row(parts, index * LANES + lane) {
                    // SAFETY: the row is the part's, and the machine runs the kernels.
                    Some((part, row)) => unsafe { panel.convert(kernels, part, row, lane) },
                    None => panel.clear(lane),
                }
            }
            // SAFETY: the panel and its scales are inside the buffers, and the caller's alone.
            unsafe {
                let to = self.panels.as_ptr().add(index * self.layout.panel_bytes());
                panel.write(kernels, to);
                if self.layout.format == WeightFormat::Int8 {
                    let scales = self.scales.as_ptr().cast::<f32>().add(index * LANES);
                    std::ptr::copy_nonoverlapping(panel.scales.as_ptr(), scales, LANES);
                }
            }
        }
        release(parts, first * LANES, last * LANES);
    }

    /// Row `row` of the matrix, as numbers, into `to`.
    pub(crate) fn unpack_row(&self, row: usize, to: &mut [f32]) {
        let Layout { format, in_features, .. } = self.layout;
        let bytes = self.layout.panel_bytes();
        debug_assert!((row / LANES + 1) * bytes <= self.panels.len() && to.len() <= in_features);
        // SAFETY: the panel is inside the buffer, which nobody writes after loading.
        let panel = unsafe { std::slice::from_raw_parts(self.panels.as_ptr().add(row / LANES * bytes), bytes) };
        let lane = row % LANES;
        match format {
            WeightFormat::Dense(DType::F32) => {
                read(panel, to, |k| k * LANES + lane, f32::from_le_bytes);
            }
            WeightFormat::Dense(DType::F16) => {
                read(panel, to, |k| k * LANES + lane, |bits| half::f16::from_le_bytes(bits).to_f32());
            }
            WeightFormat::Dense(DType::BF16) => {
                let index = |k| (k / 2 * LANES + lane) * 2 + k % 2;
                read(panel, to, index, |bits| half::bf16::from_le_bytes(bits).to_f32());
            }
            WeightFormat::Int8 => {
                // SAFETY: there is a scale for every output of every panel.
                let scale = unsafe { *self.scales().add(row) };
                let index = |k| (k / 4 * LANES + lane) * 4 + k % 4;
                read(panel, to, index, |[code]| scale * (f32::from(code) - f32::from(INT8_ZERO)));
            }
            WeightFormat::Int4 { group_size, symmetric } => {
                let header = self.layout.header_bytes();
                let groups = panel.chunks_exact(header + group_size / 2 * LANES);
                for (group, to) in groups.zip(to.chunks_mut(group_size)) {
                    let (header, codes) = group.split_at(header);
                    let scale = half::f16::from_le_bytes([header[2 * lane], header[2 * lane + 1]]).to_f32();
                    let zero = if symmetric { INT4_ZERO } else { header[2 * LANES + lane] };
                    for (k, value) in to.iter_mut().enumerate() {
                        let byte = codes[(k / 8 * LANES + lane) * 4 + k % 4];
                        let code = if k % 8 < 4 { byte & 15 } else { byte >> 4 };
                        *value = scale * (f32::from(code) - f32::from(zero));
                    }
                }
            }
        }
    }
}

/// The part that holds row `row` of the parts stacked, and its row there.
fn find_row<'a, 'b>(parts: &'a [HostMatrix<'b>], mut row: usize) -> Option<(&'a HostMatrix<'b>, usize)> {
    for part in parts {
        if row < part.rows {
            return Some((part, row));
        }
        row -= part.rows;
    }
    None
}

/// Gives back the memory of rows `first .. last` of the parts stacked; of a transposed part, whose rows lie across all of
/// its memory, with its last row.
fn release(parts: &[HostMatrix<'_>], first: usize, last: usize) {
    let mut start = 0;
    for part in parts {
        let (from, to) = (first.clamp(start, start + part.rows) - start, last.clamp(start, start + part.rows) - start);
        start += part.rows;
        let Some(source) = part.source.filter(|_| from < to) else { continue };
        let row_bytes = part.cols * part.dtype.size();
        if !part.transposed {
            source.release(&part.bytes[from * row_bytes..to * row_bytes]);
        } else if to == part.rows {
            source.release(part.bytes);
        }
    }
}

fn read<const N: usize>(panel: &[u8], to: &mut [f32], index: impl Fn(usize) -> usize, value: impl Fn([u8; N]) -> f32) {
    let elements = panel.as_chunks::<N>().0;
    for (k, to) in to.iter_mut().enumerate() {
        *to = value(elements[index(k)]);
    }
}

/// Sixteen rows on their way into a panel.
struct Panel {
    layout: Layout,
    /// `[16][groups][group_words]`.
    words: Vec<u32>,
    /// `[groups][16]`, of int4: float16 bits and codes.
    group_scales: Vec<u16>,
    group_zeros: Vec<u8>,
    /// Of int8.
    scales: [f32; LANES],
    /// A row as float32.
    values: Vec<f32>,
}

impl Panel {
    fn new(layout: Layout) -> Self {
        let headers = if layout.header_bytes() > 0 { layout.groups() * LANES } else { 0 };
        Self {
            layout,
            words: vec![0; LANES * layout.groups() * layout.group_words()],
            group_scales: vec![0; headers],
            group_zeros: vec![0; headers],
            scales: [0.0; LANES],
            values: vec![0.0; layout.in_features],
        }
    }

    fn row_words(&self) -> usize {
        self.layout.groups() * self.layout.group_words()
    }

    /// Makes lane `lane` an output of zeros.
    fn clear(&mut self, lane: usize) {
        let words = self.row_words();
        self.words[lane * words..(lane + 1) * words].fill(0);
        self.scales[lane] = 0.0;
        self.group_scales.iter_mut().skip(lane).step_by(LANES).for_each(|scale| *scale = 0);
        self.group_zeros.iter_mut().skip(lane).step_by(LANES).for_each(|zero| *zero = 0);
    }

    /// Converts row `row` of `part` to the words of lane `lane`.
    ///
    /// # Safety
    /// The machine runs `kernels`.
    unsafe fn convert(&mut self, kernels: &Kernels, part: &HostMatrix<'_>, row: usize, lane: usize) {
        let row_words = self.row_words();
        let words = &mut self.words[lane * row_words..(lane + 1) * row_words];
        let bytes = words_as_bytes(words);
        let row_bytes = part.cols * part.dtype.size();
        if self.layout.format == WeightFormat::Dense(part.dtype) && !part.transposed {
            bytes[..row_bytes].copy_from_slice(&part.bytes[row * row_bytes..][..row_bytes]);
            return;
        }
        let values = &mut self.values;
        if part.transposed {
            gather_column(part, row, values);
        } else {
            // SAFETY: a row of `cols` elements, as many as `values` has.
            unsafe {
                let from = part.bytes[row * row_bytes..][..row_bytes].as_ptr();
                (kernels.decode_row)(part.dtype, from, part.cols, values.as_mut_ptr());
            }
        }
        match self.layout.format {
            WeightFormat::Dense(DType::F32) => encode(values, bytes, |value| value.to_le_bytes()),
            WeightFormat::Dense(DType::F16) => encode(values, bytes, |value| half::f16::from_f32(value).to_le_bytes()),
            WeightFormat::Dense(DType::BF16) => {
                encode(values, bytes, |value| half::bf16::from_f32(value).to_le_bytes());
            }
            // SAFETY: room for a byte an element, filled up to words.
            WeightFormat::Int8 => unsafe {
                let scale = &mut self.scales[lane];
                (kernels.quantize_int8)(values.as_ptr(), values.len(), words.as_mut_ptr(), scale);
            },
            WeightFormat::Int4 { group_size, symmetric } => {
                for (group, values) in values.chunks(group_size).enumerate() {
                    let to = words[group * (group_size / 8)..][..group_size / 8].as_mut_ptr();
                    let (scale, zero) = (group * LANES + lane, group * LANES + lane);
                    let (scale, zero) = (&mut self.group_scales[scale], &mut self.group_zeros[zero]);
                    // SAFETY: room for four bits an element of the group.
                    unsafe {
                        (kernels.quantize_int4)(values.as_ptr(), values.len(), group_size, symmetric, to, scale, zero);
                    }
                }
            }
        }
    }

    /// Writes the panel.
    ///
    /// # Safety
    /// `to` is valid for a panel's bytes, and the machine runs `kernels`.
    unsafe fn write(&self, kernels: &Kernels, mut to: *mut u8) {
        let (row_words, group_words) = (self.row_words(), self.layout.group_words());
        for group in 0..self.layout.groups() {
            // SAFETY: header and words are a group's bytes, of which there are `groups` in a panel.
            unsafe {
                if self.layout.header_bytes() > 0 {
                    let scales = self.group_scales[group * LANES..].as_ptr().cast::<u8>();
                    std::ptr::copy_nonoverlapping(scales, to, 2 * LANES);
                    let zeros = self.group_zeros[group * LANES..].as_ptr();
                    std::ptr::copy_nonoverlapping(zeros, to.add(2 * LANES), self.layout.header_bytes() - 2 * LANES);
                    to = to.add(self.layout.header_bytes());
                }
                let from = self.words.as_ptr().add(group * group_words);
                (kernels.transpose_words)(from, row_words, group_words, to);
                to = to.add(group_words * 4 * LANES);
            }
        }
        if self.layout.format == WeightFormat::Dense(DType::F16) {
            // SAFETY: the panel's words were just written.
            unsafe { (kernels.split_pairs)(to.sub(group_words * 4 * LANES), group_words) };
        }
    }
}

fn words_as_bytes(words: &mut [u32]) -> &mut [u8] {
    // SAFETY: any word is four bytes.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}

fn encode<const N: usize>(values: &[f32], bytes: &mut [u8], encode: impl Fn(f32) -> [u8; N]) {
    for (to, value) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *to = encode(*value);
    }
}

/// Row `row` of a transposed part.
fn gather_column(part: &HostMatrix<'_>, row: usize, values: &mut [f32]) {
    fn gather<const N: usize>(part: &HostMatrix<'_>, row: usize, to: &mut [f32], value: impl Fn([u8; N]) -> f32) {
        let elements = part.bytes.as_chunks::<N>().0;
        for (to, bits) in to.iter_mut().zip(elements[row..].iter().step_by(part.rows)) {
            *to = value(*bits);
        }
    }
    match part.dtype {
        DType::F32 => gather(part, row, values, f32::from_le_bytes),
        DType::F16 => gather(part, row, values, |bits| half::f16::from_le_bytes(bits).to_f32()),
        DType::BF16 => gather(part, row, values, |bits| half::bf16::from_le_bytes(bits).to_f32()),
    }
}
