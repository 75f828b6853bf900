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
 * attention holds K alone; a value is the first value_dim dimensions of its key. Of the variant int8 these are integers, and the scales of
 * their rows, one head's key or value of one token each, follow as f16 [K, V][kv_heads][16].
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

/* out[r, :] = x[r, :] * w */
typedef struct ScaleColumnsParams {
  const float *x; /* [rows, cols] */
  const float *w; /* [cols] */
  float *out;     /* [rows, cols], may be x */
  unsigned rows, cols;
} ScaleColumnsParams;

/* out[r, p] = sum of x[r, c]^2 over the columns c of panel p: 16 p to 16 p + 15, as far as they exist */
typedef struct SquareSumsParams {
  const float *x; /* [rows, cols] */
  float *out;     /* [rows, ceil(cols / 16)] */
  unsigned rows, cols;
} SquareSumsParams;

/* out[t, j, :] = y[t, j, :] * rsqrt(sum(squares[t, :]) / width + eps) (+ bias) */
typedef struct ScaleRowsParams {
  const float *y;       /* [tokens, slots, cols] */
  const float *squares; /* [tokens, ceil(width / 16)] */
  const float *bias;    /* [cols], nullable */
  float *out;           /* [tokens, slots, cols], may be y */
  unsigned tokens, slots, cols, width;
  float eps;
  unsigned reserved;
} ScaleRowsParams;

/* out[t, p, e] = sum of x[t, c] * norm[c] * w[e, c] over the columns c of panel p; w packed (rows16) as the variant says */
typedef struct ColumnPartialsParams {
  const float *x;    /* [tokens, cols] */
  const float *norm; /* [cols] */
  const void *w;     /* packed [experts, cols] */
  float *out;        /* [tokens, ceil(cols / 16), experts] */
  unsigned tokens, cols, experts, reserved;
} ColumnPartialsParams;

/* out[t, e] = rsqrt(sum(squares[t, :]) / width + eps) * sum_p partials[t, p, e] (+ bias[e]) */
typedef struct FinishLogitsParams {
  const float *partials; /* [tokens, ceil(width / 16), experts] */
  const float *squares;  /* [tokens, ceil(width / 16)] */
  const float *bias;     /* [experts], nullable */
  float *out;            /* [tokens, experts] */
  unsigned tokens, experts, width;
  float eps;
} FinishLogitsParams;

/* out = a norm of x rounded to q8x32, row by row. norm: 1 rms_norm, 2 layer_norm, 3 scale_columns. The variant names what shares a
 * scale: block or row */
typedef struct NormQuantizeParams {
  const float *x;      /* [rows, cols] */
  const float *weight; /* [cols] */
  const float *bias;   /* [cols], nullable; of layer_norm alone */
  void *out;           /* q8x32 [rows, cols] */
  unsigned rows, cols, norm;
  float eps;
} NormQuantizeParams;

/* out[r, :] = factor * rms_norm(x[r, :]) + residual[r, :]; squares as SquareSumsParams of out */
typedef struct NormAddParams {
  const float *x;        /* [rows, cols] */
  const float *weight;   /* [cols] */
  const float *residual; /* [rows, cols] */
  float *out;            /* [rows, cols], may be x or residual */
  float *squares;        /* [rows, ceil(cols / 16)], nullable */
  unsigned rows, cols;
  float eps, factor;
} NormAddParams;

/* out[t, n] = factor * (sum_j weights[t, j] * y[t, j, n]) + residual[t, n], as CombineParams; squares as SquareSumsParams of out */
typedef struct CombineAddParams {
  const float *y;        /* [tokens, slots, cols] */
  const float *weights;  /* [tokens, slots] */
  const float *residual; /* [tokens, cols] */
  float *out;            /* [tokens, cols], may be residual */
  float *squares;        /* [tokens, ceil(cols / 16)], nullable */
  unsigned tokens, slots, cols;
  float factor;
} CombineAddParams;

/* As CombineAddParams with y[t, j, n] = sum_k h[t, j, k] * w[e, n, k] (+ bias[e, n]), e = experts[t, j], zeros for an expert that does
 * not exist. The variant is <weight>.<x>: h is f32 (f32), q8x32 (q8x32), or f32 that the launch rounds to q8x32 (f32.block,
 * f32.row). */
typedef struct CombineDownParams {
  const void *h;         /* [tokens, slots, cols] */
  const void *w;         /* [matrices] packed [rows, cols] */
  const int *experts;    /* [tokens, slots] */
  const float *weights;  /* [tokens, slots] */
  const float *bias;     /* [matrices, rows], nullable */
  const float *residual; /* [tokens, rows], nullable */
  float *out;            /* [tokens, rows], may be residual */
  float *squares;        /* [tokens, ceil(rows / 16)], nullable */
  unsigned tokens, slots, matrices, rows, cols;
  float factor;
} CombineDownParams;

/* Queries, keys and values: products of x with wq, wk, wv, by rsqrt(sum(squares) / cols + eps) where squares are given, plus biases;
 * seen as heads, of which queries and keys are normalised (rms_norm) where q_norm, k_norm are given, and turned as RopeParams
 * says where inv_freq is given. Queries are stored, keys and values appended as KvAppendParams says. Without wk there are queries
 * alone. x is normalised before: norm 0 not at all, 1 rms_norm, 2 layer_norm, 3 scale_columns. The variant is
 * <weight>.<x>.<kv type>, with x as in CombineDownParams. */
typedef struct QkvParams {
  const void *x;            /* [tokens, cols] */
  const void *wq;           /* packed [heads * head_dim, cols] */
  const void *wk;           /* packed [kv_heads * head_dim, cols], nullable as wv and kv */
  const void *wv;           /* packed [kv_heads * head_dim, cols] */
  const float *norm_weight; /* [cols], nullable */
  const float *norm_bias;   /* [cols], nullable */
  const float *squares;     /* [tokens, ceil(cols / 16)], nullable */
  const float *bq;          /* [heads * head_dim], nullable */
  const float *bk;          /* [kv_heads * head_dim], nullable */
  const float *bv;          /* [kv_heads * head_dim], nullable */
  const float *q_norm;      /* [head_dim], nullable */
  const float *k_norm;      /* [head_dim], nullable */
  const int *positions;     /* [tokens], nullable */
  const int *sequences;     /* [tokens], nullable */
  const int *page_table;    /* [*, page_table_stride], nullable */
  const float *inv_freq;    /* [tables, pairs], nullable */
  const int *table;         /* [tokens], nullable: then tables = 1 */
  float *out;               /* [tokens, heads, head_dim] */
  void *kv;                 /* pages of this layer, nullable */
  unsigned tokens, cols, heads, kv_heads, head_dim, pairs;
  unsigned tables, interleaved, page_table_stride, norm;
  float eps, norm_eps, head_eps, scale;
} QkvParams;

/* out[t, n] = v + residual[t, n] with v made of y = sum_k x[t, k] * w[n, k], step by step, each where its operand is given:
 * y * rsqrt(sum(squares[t, :]) / cols + eps), + bias[n], * sigmoid(gate[t]), * factor, softcap * tanh(v / softcap) if softcap > 0.
 * squares_out as SquareSumsParams of out, partials_out as ColumnPartialsParams of out, router_norm and router, which is of
 * router_type: 0 f32, 1 f16, 2 bf16. x is normalised before: norm 0 not at all, 1 rms_norm, 2 layer_norm, 3 scale_columns. The
 * variant is <weight>.<x>, where x is f32, q8x32, or f32.block and f32.row for f32 that the launch rounds to q8x32. */
typedef struct ProjectParams {
  const void *x;            /* [tokens, cols] */
  const void *w;            /* packed [rows, cols] */
  const float *norm_weight; /* [cols], nullable */
  const float *norm_bias;   /* [cols], nullable */
  const float *squares;     /* [tokens, ceil(cols / 16)], nullable */
  const float *bias;        /* [rows], nullable */
  const float *gate;        /* [tokens], nullable */
  const float *residual;    /* [tokens, rows], nullable */
  const float *router_norm; /* [rows], nullable: then partials_out as well */
  const void *router;       /* packed [router_rows, rows], nullable */
  float *out;               /* [tokens, rows], may be residual */
  float *squares_out;       /* [tokens, ceil(rows / 16)], nullable */
  float *partials_out;      /* [tokens, ceil(rows / 16), router_rows], nullable */
  unsigned tokens, rows, cols, norm;
  unsigned router_rows, router_type;
  float eps, norm_eps, factor, softcap;
} ProjectParams;

/* The experts that RouterParams selects and the weights that RouterWeightsParams gives them, by logits or, where they are null,
 * by those that FinishLogitsParams makes of partials. The variant names the scoring. */
typedef struct RouteParams {
  const float *logits;      /* [tokens, experts], nullable */
  const float *partials;    /* [tokens, ceil(width / 16), experts], nullable */
  const float *squares;     /* [tokens, ceil(width / 16)], nullable */
  const float *logits_bias; /* [experts], nullable; of partials */
  const float *bias;        /* [experts], nullable; of the scores */
  int *selected;            /* [tokens, slots] */
  float *weights;           /* [tokens, slots] */
  unsigned tokens, experts, slots, groups;
  unsigned top_groups, renormalise, width;
  float eps, scale, jitter;
} RouteParams;

/* out[t, j, n] = activation(gate) * up, as the variant of BinaryParams named by activation: 0 silu, 1 gelu_tanh, 2 gelu, 3 relu2,
 * 4 clamped_swiglu. gate and up are products of a row of x with rows n of w_gate and w_up of expert e, each
 * * rsqrt(sum(squares[t, :]) / cols + eps) where squares are given, + its bias[e, n] where that is. routing 0: e = j; 1: e =
 * experts[t, j]; 2: e as RouteParams (by logits or route_partials, scoring 0 softmax, 1 sigmoid, 2 sparsemixer) selects, written to
 * experts_out with their weights. x, slots_share_x and an expert that does not exist as in GroupedMatmulParams, norm and variant as in
 * ProjectParams. */
typedef struct GateUpParams {
  const void *x;                /* [tokens, slots, cols] or [tokens, cols] */
  const void *w_gate;           /* [matrices] packed [rows, cols] */
  const void *w_up;             /* [matrices] packed [rows, cols] */
  const int *experts;           /* [tokens, slots], nullable: routing 1 */
  const float *norm_weight;     /* [cols], nullable */
  const float *norm_bias;       /* [cols], nullable */
  const float *squares;         /* [tokens, ceil(cols / 16)], nullable */
  const float *gate_bias;       /* [matrices, rows], nullable */
  const float *up_bias;         /* [matrices, rows], nullable */
  const float *logits;          /* [tokens, matrices], nullable */
  const float *route_partials;  /* [tokens, ceil(route_width / 16), matrices], nullable */
  const float *route_squares;   /* [tokens, ceil(route_width / 16)], nullable */
  const float *route_bias;      /* [matrices], nullable; of route_partials */
  const float *correction;      /* [matrices], nullable; of the scores */
  float *out;                   /* [tokens, slots, rows] */
  int *experts_out;             /* [tokens, slots], nullable: routing 2 */
  float *weights_out;           /* [tokens, slots], nullable: routing 2 */
  unsigned tokens, slots, matrices, rows, cols, slots_share_x;
  unsigned activation, norm, routing, scoring;
  unsigned groups, top_groups, renormalise, route_width;
  float eps, norm_eps, limit, route_eps, scale, jitter;
} GateUpParams;

/* How one row of logits is sampled. Neutral: temperature 1, top_k 0, top_p 1, min_p 0, repetition_penalty 1, the others 0. At
 * temperature 0 the largest score is chosen. seed and position name the random number (Philox4x32-10). */
typedef struct SampleSettings {
  unsigned long long seed, position;
  float temperature;
  unsigned top_k;
  float top_p, min_p;
  float repetition_penalty, presence_penalty, frequency_penalty;
  unsigned reserved;
} SampleSettings;

/* A token of each row of logits. Steps: mask, penalties, temperature, top-k, top-p, min-p, draw; a filter keeps the lower id among
 * equals. History of row r: tokens history_tokens[i] for history_offsets[r] <= i < history_offsets[r + 1], each once, with how often it
 * stands in the output: 0 for one of the prompt alone. Bit v % 32 of word v / 32 of a row of the mask says that token v is allowed.
 * out: -1 if a logit, or a score after the penalties, is NaN or positive infinity, -2 if no token is allowed, -3 if the history
 * names a token that does not exist. logprobs: of the softmax of the logits as given, NaN where there is no token. vocab is at most
 * 2^21. */
typedef struct SampleParams {
  const float *logits;             /* [rows, vocab] */
  const SampleSettings *settings;  /* [rows] */
  const unsigned *history_offsets; /* [rows + 1], nullable as the next two */
  const unsigned *history_tokens;  /* [history_offsets[rows]] */
  const unsigned *history_counts;  /* [history_offsets[rows]] */
  const unsigned *allowed;         /* [rows, ceil(vocab / 32)], nullable */
  int *out;                        /* [rows] */
  float *logprobs;                 /* [rows], nullable */
  unsigned rows, vocab;
} SampleParams;

/* Copies whole pages of one layer: page pages[i][0] to page pages[i][1]. No page that is written may stand in the list twice.
 * page_bytes is a multiple of 16, as is the address of the pages. */
typedef struct PageCopyParams {
  const int *pages; /* [count, 2] */
  void *kv;         /* pages of this layer */
  unsigned long long page_bytes;
  unsigned count, reserved;
} PageCopyParams;

#endif
