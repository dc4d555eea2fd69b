// What distances stand for in scores, where they have keys and queries of their own (DeBERTa).
//
//   score of query row i and key row j = scale * (q(i) . k(j) + q(i) . keys[b] + queries[b] . k(j)),  b the bucket of j - i
//
// Both kinds of products are made once for all pairs of a row and a bucket (distance_products.cu), and looked up here: there are
// far fewer buckets than pairs of rows.
#pragma once
#include "device.cuh"

// rust/cuda/src/encoder_distances.rs has the same.
struct Distances {
  const float* of_queries;  // of rows' queries and buckets' keys, [rows, num_heads, num_buckets], or null
  const float* of_keys;     // of rows' keys and buckets' queries, the same, or null
  const u32* buckets;       // of distances from -reach to reach, or null where distances stand for nothing
  int reach, num_heads;
  int first, num_buckets;  // the buckets that there are products of

  // A product of the query `row` and of the key `distance` rows after it, with those of the distance.
  DEVICE float add_to(float dot, int row, int head, int distance) const {
    if (!buckets) return dot;
    const int bucket = (int)buckets[max(0, min(reach + distance, 2 * reach))] - first;
    if (of_queries) dot += of_queries[((u32)row * num_heads + head) * num_buckets + bucket];
    if (of_keys) dot += of_keys[((u32)(row + distance) * num_heads + head) * num_buckets + bucket];
    return dot;
  }
};
