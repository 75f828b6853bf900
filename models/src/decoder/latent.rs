//! Multi-head latent attention in absorbed form (DeepSeek-V2, 2024, section 2.1 and appendix C).
//!
//! Of each token the cache holds the latent vector and the rotary key, which all heads share: `rank + rotary` numbers in place
//! of keys and values of every head. Scores are the same whether a key is expanded from the latent vector or the query
//! brought to the latent space, and so is the mixture of values; the second needs no expansion of the cache.

use ir::graph::ValueId;
use ir::op::Op;

use super::Decoder;
use super::weights::matrix_source;
use crate::ModelError;
use crate::hyperparameters::LatentAttention;
use crate::names::{Role, label};
use crate::weights::{MatrixSource, RowSelection};

/// Epsilon of the norms of compressed queries and latent vectors, whatever the configuration says of the others.
const LOW_RANK_EPS: f64 = 1e-6;

/// A half of the expansion of the latent vector.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expansion {
    Key,
    Value,
}

impl Decoder<'_> {
    pub(super) fn latent_attention(
        &mut self,
        x: ValueId,
        layer: usize,
        latent: LatentAttention,
    ) -> Result<ValueId, ModelError> {
        let q = self.latent_queries(x, layer, latent)?;
        let k = self.latent_keys(x, layer, latent)?;
        let cache = self.append(k, None, layer)?;
        let mixed = self.attend(q, cache, layer, latent.rank)?;
        let expansion = self.expansion(Expansion::Value, layer, latent)?;
        let values = self.op(Op::HeadMatmul, &[mixed, expansion], &[], &label(Role::LatentValue, layer))?;
        self.attention_output(values, layer, self.hyper.heads * latent.value_dim)
    }

    /// Queries `[T, heads, rank + rotary]` in the latent space.
    fn latent_queries(&mut self, x: ValueId, layer: usize, latent: LatentAttention) -> Result<ValueId, ModelError> {
        let (role, input, width) = match latent.query_rank {
            None => (Role::Query, x, self.hyper.hidden),
            Some(rank) => {
                let compressed = self.linear(x, Role::QueryCompression, layer, rank, self.hyper.hidden, None)?;
                let normed = self.norm_with(compressed, Role::QueryCompressionNorm, layer, LOW_RANK_EPS)?;
                (Role::QueryExpansion, normed, rank)
            }
        };
        let (heads, period) = (self.hyper.heads, latent.key_dim + latent.rotary_dim);
        let module = self.names.module(role, layer);
        self.expect_matrix(&module, heads * period, width)?;
        let parts = [("latent", 0, latent.key_dim), ("rotary", latent.key_dim, latent.rotary_dim)];
        let [plain, rotary] = parts.map(|(part, offset, run)| {
            let source = matrix_source(&module, RowSelection::heads(offset, run, period));
            let q = self.part(input, role, layer, part, source, [heads * run, width])?;
            self.split_heads(q, heads)
        });
        let rotary = self.rope(rotary?, role, layer)?;
        let expansion = self.expansion(Expansion::Key, layer, latent)?;
        let plain = self.op(Op::HeadMatmul, &[plain?, expansion], &[], &label(Role::LatentKey, layer))?;
        self.op(Op::Concat, &[plain, rotary], &[], &format!("layers.{layer}.query"))
    }

    /// What the cache holds of each token, `[T, 1, rank + rotary]`.
    fn latent_keys(&mut self, x: ValueId, layer: usize, latent: LatentAttention) -> Result<ValueId, ModelError> {
        let (role, hidden) = (Role::Latent, self.hyper.hidden);
        let module = self.names.module(role, layer);
        self.expect_matrix(&module, latent.rank + latent.rotary_dim, hidden)?;
        let source = |first| matrix_source(&module, RowSelection::range(first));
        let c = self.part(x, role, layer, "latent", source(0), [latent.rank, hidden])?;
        let rotary = self.part(x, role, layer, "rotary", source(latent.rank), [latent.rotary_dim, hidden])?;
        let c = self.norm_with(c, Role::LatentNorm, layer, LOW_RANK_EPS)?;
        let (c, rotary) = (self.split_heads(c, 1)?, self.split_heads(rotary, 1)?);
        let rotary = self.rope(rotary, role, layer)?;
        self.op(Op::Concat, &[c, rotary], &[], &format!("layers.{layer}.key"))
    }

    /// A product with some rows of a role's matrix.
    fn part(
        &mut self,
        x: ValueId,
        role: Role,
        layer: usize,
        part: &str,
        source: MatrixSource,
        [rows, cols]: [u64; 2],
    ) -> Result<ValueId, ModelError> {
        let name = format!("{}.{part}.weight", source.module);
        let (matrix, order) = self.matrix_of(&name, source, rows, cols)?;
        let x = self.ordered(x, order, None)?;
        self.op(Op::Matmul, &[x, matrix], &[], &format!("{}.{part}", label(role, layer)))
    }

    /// The matrices that bring each head's query to the latent space, `[heads, rank, key]`, or its value out of it,
    /// `[heads, value, rank]`.
    fn expansion(&mut self, half: Expansion, layer: usize, latent: LatentAttention) -> Result<ValueId, ModelError> {
        let (role, [rows, cols]) = match half {
            Expansion::Key => (Role::LatentKey, [latent.rank, latent.key_dim]),
            Expansion::Value => (Role::LatentValue, [latent.value_dim, latent.rank]),
        };
        let split = self.names.module(role, layer);
        let fused = self.names.module(Role::LatentExpansion, layer);
        let is_split = self.resolver.has(&split);
        if !is_split {
            self.expect_matrix(&fused, self.hyper.heads * (latent.key_dim + latent.value_dim), latent.rank)?;
        }
        let of_head = |head: u64| {
            if is_split {
                return MatrixSource { expert: Some(head), ..matrix_source(&split, RowSelection::all()) };
            }
            let (start, transposed) = match half {
                Expansion::Key => (0, true),
                Expansion::Value => (latent.key_dim, false),
            };
            let first = head * (latent.key_dim + latent.value_dim) + start;
            let part = if transposed { latent.key_dim } else { latent.value_dim };
            MatrixSource { transposed, ..matrix_source(&fused, RowSelection::range(first).bounded(part)) }
        };
        let sources: Vec<MatrixSource> = (0..self.hyper.heads).map(of_head).collect();
        let part = if half == Expansion::Key { "key" } else { "value" };
        let name = format!("{fused}.{part}.weight");
        match self.stack(&name, sources, rows, cols, true)? {
            (matrices, None) => Ok(matrices),
            (_, Some(_)) => Err(ModelError::Unsupported {
                file: self.checkpoint.path().to_path_buf(),
                what: format!("activation order (desc_act) of {fused}"),
                instead: "use a checkpoint quantised without it".into(),
            }),
        }
    }
}
