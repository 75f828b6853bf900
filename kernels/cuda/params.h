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
 * A KV page of one layer holds 16 tokens: K as [kv_heads][head_dim][16], then V as [kv_heads][16][head_dim]. A page of latent
 * attention holds K alone; a value is the first value_dim dimensions of its key.
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

/* out[r, :] = (x[r, :] - mean) * rsqrt(variance + eps) * weight (+ bias) */
typedef struct LayerNormParams {
  const float *x;      /* [rows, cols] */
  const float *weight; /* [cols] */
  const float *bias;   /* [cols], nullable */
  float *out;          /* [rows, cols] */
  unsigned rows, cols;
  float eps;
  unsigned reserved;
} LayerNormParams;

/* out = x rounded to q8x32, row by row; the variant names what shares a scale: block or row */
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

/* out[t, j, n] = sum_k x[t, j, k] * w[e, n, k] (+ bias[e, n]) with e = experts[t, j], or e = j where experts is null.
 * x has a row for each slot, or with slots_share_x = 1 one for each token, [tokens, cols]. An expert that does not exist gives zeros. */
typedef struct GroupedMatmulParams {
  const void *x;      /* f32 or q8x32 [tokens, slots, cols] or [tokens, cols] */
  const void *w;      /* [matrices] packed [rows, cols] */
  const int *experts; /* [tokens, slots], nullable: then slots = matrices */
  const float *bias;  /* [matrices, rows], nullable */
  float *out;         /* [tokens, slots, rows] */
  unsigned tokens, slots, matrices, rows, cols;
  unsigned slots_share_x;
} GroupedMatmulParams;

/* The slots experts of greatest score, best first, the lower index first among equals. The variant names the score:
 * softmax, sparsemixer: the logit; sigmoid: sigmoid(logit) + bias. Only experts of the best top_groups groups take part. */
typedef struct RouterParams {
  const float *logits; /* [tokens, experts] */
  const float *bias;   /* [experts], nullable */
  int *out;            /* [tokens, slots] */
  unsigned tokens, experts, slots;
  unsigned groups, top_groups, reserved;
} RouterParams;

/* The factor of each selected expert; the variant names the scoring: softmax, sigmoid, sparsemixer. */
typedef struct RouterWeightsParams {
  const float *logits;  /* [tokens, experts] */
  const int *selected;  /* [tokens, slots] */
  float *out;           /* [tokens, slots] */
  unsigned tokens, experts, slots;
  unsigned renormalise;
  float scale, jitter;
} RouterWeightsParams;

/* out[t, n] = sum_j weights[t, j] * y[t, j, n], in the order of j */
typedef struct CombineParams {
  const float *y;       /* [tokens, slots, cols] */
  const float *weights; /* [tokens, slots] */
  float *out;           /* [tokens, cols] */
  unsigned tokens, slots, cols, reserved;
} CombineParams;

/* out[t, j, c] = x[t, j, index[e, c]] with e = experts[t, j], or e = 0 where experts is null. x as in GroupedMatmulParams. A
 * column or expert that does not exist gives zeros. */
typedef struct PermuteColumnsParams {
  const float *x;     /* [tokens, slots, cols] or [tokens, cols] */
  const int *index;   /* [matrices, cols] */
  const int *experts; /* [tokens, slots], nullable: then matrices = 1 */
  float *out;         /* [tokens, slots, cols] */
  unsigned tokens, slots, matrices, cols;
  unsigned slots_share_x, reserved;
} PermuteColumnsParams;

/* out[r, :] = a[r, :] then b[r, :] */
typedef struct ConcatParams {
  const float *a; /* [rows, a_cols] */
  const float *b; /* [rows, b_cols] */
  float *out;     /* [rows, a_cols + b_cols] */
  unsigned rows, a_cols, b_cols, reserved;
} ConcatParams;

/* out[r, c] = x[r, c] * sigmoid(gate[r]) */
typedef struct SigmoidGateParams {
  const float *x;    /* [rows, cols] */
  const float *gate; /* [rows] */
  float *out;        /* [rows, cols], may be x */
  unsigned rows, cols;
} SigmoidGateParams;

/* out[i] = f(x[i]) over count elements; the variant names the operation: scale (x * value), softcap (value * tanh(x / value)). */
typedef struct UnaryParams {
  const float *x;
  float *out; /* may be x */
  unsigned long long count;
  float value;
  unsigned reserved;
} UnaryParams;

/* Rotary embedding of the first 2 * pairs dimensions of each head; angle = positions[t] * inv_freq[i], rounded to f32.
 * Pairs are (i, i + pairs), or (2i, 2i + 1) when interleaved. cos and sin are multiplied by scale. Token t uses row
 * table[t] of inv_freq, row 0 where table is null. */
typedef struct RopeParams {
  const float *x;        /* [tokens, heads, head_dim] */
  const int *positions;  /* [tokens] */
  const float *inv_freq; /* [tables, pairs] */
  const int *table;      /* [tokens], nullable: then tables = 1 */
  float *out;            /* [tokens, heads, head_dim], may be x */
  unsigned tokens, heads, head_dim, pairs;
  unsigned tables, interleaved;
  float scale;
  unsigned reserved;
} RopeParams;

/* Writes the keys and values of this step's tokens to their slots, rounded to the variant's KV type. Without values a page
 * holds keys alone. */
typedef struct KvAppendParams {
  const float *k;          /* [tokens, kv_heads, head_dim] */
  const float *v;          /* [tokens, kv_heads, head_dim], nullable */
  const int *positions;    /* [tokens] */
  const int *sequences;    /* [tokens] */
  const int *page_table;   /* [*, page_table_stride] */
  void *kv;                /* pages of this layer */
  unsigned tokens, kv_heads, head_dim, page_table_stride;
} KvAppendParams;

/* Causal attention of each token over positions 0..=positions[t] of its sequence, already appended.
 * window > 0: only the last `window` positions are seen. softcap > 0: scores become softcap * tanh(score / softcap).
 * sinks: one more score a head in the softmax, neither scaled nor capped, that has no value. value_dim > 0: pages hold
 * keys alone (latent attention). */
typedef struct AttentionParams {
  const float *q;        /* [tokens, heads, head_dim] */
  const void *kv;        /* pages of this layer */
  const int *positions;  /* [tokens] */
  const int *sequences;  /* [tokens] */
  const int *page_table; /* [*, page_table_stride] */
  const float *sinks;    /* [heads], nullable */
  float *out;            /* [tokens, heads, value_dim > 0 ? value_dim : head_dim] */
  unsigned tokens, heads, kv_heads, head_dim;
  unsigned page_table_stride, window, value_dim, reserved;
  float scale, softcap;
} AttentionParams;

/* out[i] = a[i] (op) b[i] over count elements; the variant names the operation: add, mul, or ACTIVATION_mul: activation(a) * b
 * with silu, gelu_tanh, gelu, relu2 (max(a, 0)^2), clamped_swiglu ((clamp(b, +-limit) + 1) * g * sigmoid(1.702 g), g = min(a, limit)). */
typedef struct BinaryParams {
  const float *a;
  const float *b;
  float *out; /* may be a or b */
  unsigned long long count;
  float limit;
  unsigned reserved;
} BinaryParams;

#endif
