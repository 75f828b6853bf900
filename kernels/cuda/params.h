/* The parameter ABI of every kernel: one by-value struct a kernel, the same for the cuda, sim and cpu devices.
 *
 * Plain C with no implicit padding: 8-byte fields first, then 4-byte fields in pairs. kernels/src/abi.rs is generated
 * from this file by `cargo xtask abi`; a test holds it fresh. Matrices are row-major and dense unless a comment says
 * otherwise. Counts are elements, not bytes. A nullable pointer says so.
 *
 * A step is ragged: `tokens` tokens of any mix of sequences. Token t belongs to sequence sequences[t] (a row of the page
 * table) and stands at positions[t] in it; tokens of one sequence are adjacent and in order. Token at position p of
 * sequence s lives in page page_table[s * page_table_stride + p / 16], slot p % 16.
 *
 * A KV page of one layer holds 16 tokens: K as [kv_heads][head_dim][16], then V as [kv_heads][16][head_dim].
 */
#ifndef MOESAIC_PARAMS_H
#define MOESAIC_PARAMS_H


/* out[t, :] = table[ids[t], :] as f32; the table is packed (rows16) in the variant's format. */
typedef struct EmbeddingParams {
  const int *ids;    /* [tokens] */
  const void *table; /* packed [rows, cols] */
  float *out;        /* [tokens, cols] */
  unsigned tokens, rows, cols, reserved;
} EmbeddingParams;

/* out[i, :] = x[rows[i], :] */
typedef struct GatherRowsParams {
  const float *x;  /* [*, cols] */
  const int *rows; /* [count] */
  float *out;      /* [count, cols] */
  unsigned count, cols;
} GatherRowsParams;

/* out[r, :] = x[r, :] * rsqrt(mean(x[r, :]^2) + eps) * weight */
typedef struct RmsNormParams {
  const float *x;      /* [rows, cols] */
  const float *weight; /* [cols] */
  float *out;          /* [rows, cols] */
  unsigned rows, cols;
  float eps;
  unsigned reserved;
} RmsNormParams;

/* out = x rounded to q8x32, row by row */
typedef struct QuantizeRowsParams {
  const float *x; /* [rows, cols] */
  void *out;      /* q8x32 [rows, cols] */
  unsigned rows, cols;
} QuantizeRowsParams;

/* out[t, n] = sum_k x[t, k] * w[n, k] (+ bias[n]); x is f32 or q8x32, w packed (rows16), as the variant says */
typedef struct MatmulParams {
  const void *x;     /* [tokens, cols] */
  const void *w;     /* packed [rows, cols] */
  const float *bias; /* [rows], nullable */
  float *out;        /* [tokens, rows] */
  unsigned tokens, rows, cols, reserved;
} MatmulParams;

/* Rotary embedding of the first 2 * pairs dimensions of each head; angle = positions[t] * inv_freq[i], rounded to f32.
 * Pairs are (i, i + pairs), or (2i, 2i + 1) when interleaved. cos and sin are multiplied by scale. */
typedef struct RopeParams {
  const float *x;        /* [tokens, heads, head_dim] */
  const int *positions;  /* [tokens] */
  const float *inv_freq; /* [pairs] */
  float *out;            /* [tokens, heads, head_dim], may be x */
  unsigned tokens, heads, head_dim, pairs;
  unsigned interleaved;
  float scale;
} RopeParams;

/* Writes the keys and values of this step's tokens to their slots, rounded to the variant's KV type. */
typedef struct KvAppendParams {
  const float *k;          /* [tokens, kv_heads, head_dim] */
  const float *v;          /* [tokens, kv_heads, head_dim] */
  const int *positions;    /* [tokens] */
  const int *sequences;    /* [tokens] */
  const int *page_table;   /* [*, page_table_stride] */
  void *kv;                /* pages of this layer */
  unsigned tokens, kv_heads, head_dim, page_table_stride;
} KvAppendParams;

/* Causal attention of each token over positions 0..=positions[t] of its sequence, already appended.
 * window > 0: only the last `window` positions are seen. softcap > 0: scores become softcap * tanh(score / softcap). */
typedef struct AttentionParams {
  const float *q;        /* [tokens, heads, head_dim] */
  const void *kv;        /* pages of this layer */
  const int *positions;  /* [tokens] */
  const int *sequences;  /* [tokens] */
  const int *page_table; /* [*, page_table_stride] */
  float *out;            /* [tokens, heads, head_dim] */
  unsigned tokens, heads, kv_heads, head_dim;
  unsigned page_table_stride, window;
  float scale, softcap;
} AttentionParams;

/* out[i] = a[i] (op) b[i] over count elements; the variant names the operation: add, mul, silu_mul (silu(a) * b). */
typedef struct BinaryParams {
  const float *a;
  const float *b;
  float *out; /* may be a or b */
  unsigned long long count;
} BinaryParams;

#endif
