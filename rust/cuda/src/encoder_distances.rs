//! Keys and queries of distances: their products with all rows, `cuda/distance_products.cu`, for attention's kernels to look up.

use std::sync::Arc;

use rustllm_ops::{DisentangledParams, EncoderAttentionParams, Error, Result, Tensor, checked_size};

use crate::attention::{THREADS, at_most};
use crate::backend::CudaBackend;
use crate::buffer::Buffer;
use crate::device::Grid;
use crate::kernels::MultiplyDistances;
use crate::view::{Address, Matrix, indices};

/// Rows, and buckets, of a block: `SIDE` of `cuda/distance_products.cu`.
const SIDE: usize = 64;

/// What distances stand for in scores: `Distances` of `cuda/distances.cuh`. By default, nothing.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Distances {
    of_queries: Address,
    of_keys: Address,
    buckets: Address,
    reach: i32,
    num_heads: i32,
    first: i32,
    num_buckets: i32,
}

/// Products of rows and buckets, in memory that is theirs until attention's kernels are launched.
pub(crate) struct DistanceProducts {
    distances: Distances,
    _of_queries: Option<Arc<Buffer>>,
    _of_keys: Option<Arc<Buffer>>,
}

impl DistanceProducts {
    pub fn distances(&self) -> Distances {
        self.distances
    }
}

/// The first and the last of the buckets that distances between `longest` rows fall in.
fn bucket_range(distances: &DisentangledParams, longest: usize) -> (usize, usize) {
    // Those past the reach are in the outermost buckets.
    let farthest = longest.saturating_sub(1).min(distances.buckets.len() / 2) as isize;
    let buckets = (-farthest..=farthest).map(|distance| distances.bucket(distance));
    buckets.fold((usize::MAX, 0), |(low, high), bucket| (low.min(bucket), high.max(bucket)))
}

impl CudaBackend {
    /// The products that sequences of up to `longest` rows need, if distances stand for anything. `q` and `k` have as many heads.
    pub(crate) fn distance_products(
        &self,
        (q, k): (Matrix, Matrix),
        params: &EncoderAttentionParams,
        longest: usize,
    ) -> Result<Option<DistanceProducts>> {
        let Some(disentangled) = &params.disentangled else { return Ok(None) };
        let (first, last) = bucket_range(disentangled, longest);
        let num_buckets = last - first + 1;
        let multiply = |x: Matrix, of_distances: &Option<Tensor>| {
            let multiply = |tensor| self.multiply_distances(x, tensor, params, (first, num_buckets));
            of_distances.as_ref().map(multiply).transpose()
        };
        let (of_queries, of_keys) = (multiply(q, &disentangled.keys)?, multiply(k, &disentangled.queries)?);
        let address = |products: &Option<Arc<Buffer>>| products.as_ref().map_or(0, |products| products.address());
        let distances = Distances {
            of_queries: address(&of_queries),
            of_keys: address(&of_keys),
            buckets: indices(&disentangled.buckets, self.id)?,
            reach: at_most(disentangled.buckets.len() / 2),
            num_heads: at_most(params.num_heads),
            first: at_most(first),
            num_buckets: at_most(num_buckets),
        };
        Ok(Some(DistanceProducts { distances, _of_queries: of_queries, _of_keys: of_keys }))
    }

    /// Of every row's heads with those of the buckets from `first` on, `[rows, num_heads, num_buckets]`.
    fn multiply_distances(
        &self,
        x: Matrix,
        of_distances: &Tensor,
        params: &EncoderAttentionParams,
        (first, num_buckets): (usize, usize),
    ) -> Result<Arc<Buffer>> {
        let EncoderAttentionParams { num_heads, head_dim, .. } = *params;
        let size = [x.num_rows(), num_heads, num_buckets, size_of::<f32>()];
        let bytes = checked_size(&size, "products of distances")?;
        // Kernels count them in 32 bits.
        if bytes / size_of::<f32>() > u32::MAX as usize {
            return Err(Error::OutOfMemory { bytes, what: "products of distances" });
        }
        let products = self.scratch(bytes)?;
        let grid = Grid::new((x.num_rows().div_ceil(SIDE), num_buckets.div_ceil(SIDE), num_heads), THREADS);
        let (to, of_distances) = (products.address(), self.view(of_distances)?);
        let (first, num_buckets, head_dim) = (at_most(first), at_most(num_buckets), head_dim as i32);
        let operands = MultiplyDistances { to, x, of_distances, first, num_buckets, head_dim };
        self.device.launch("distance_products", grid, &operands)?;
        Ok(products)
    }
}
