//! How a KV cache stores numbers: an option of its own, for memory of long contexts is saved or spent here whatever products multiply.

use std::fmt;
use std::str::FromStr;

use ir::op::{PAGE_TOKENS, page_bytes};
use ir::types::DType;
use models::hyperparameters::KvGeometry;

use crate::target::Activations;

/// Element type of a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// 16-bit floats.
    F16,
    /// 8-bit integers, each vector of a head with an f16 scale ([`ir::quant::int8_rows`]).
    Int8,
    /// 32-bit floats: for parity with a reference.
    F32,
}

impl KvType {
    /// Every choice, the default of most models first.
    pub const ALL: [KvType; 3] = [KvType::F16, KvType::Int8, KvType::F32];

    /// What goes with activations where nothing else is asked for.
    pub const fn default_for(activations: Activations) -> KvType {
        match activations {
            Activations::F32 => KvType::F32,
            Activations::F16 | Activations::Int8 => KvType::F16,
        }
    }

    /// Its name in options, manifests and reports: that of the element type.
    pub const fn name(self) -> &'static str {
        self.dtype().name()
    }

    /// The element type of the graph's states.
    pub const fn dtype(self) -> DType {
        match self {
            KvType::F16 => DType::F16,
            KvType::Int8 => DType::INT8,
            KvType::F32 => DType::F32,
        }
    }

    /// Bytes of one layer's page.
    pub fn page_bytes(self, kv: KvGeometry) -> u64 {
        page_bytes(self.dtype(), kv.planes, kv.heads, kv.head_dim).unwrap_or(u64::MAX)
    }

    /// Bytes of one token in `layers` layers.
    pub fn bytes_per_token(self, kv: KvGeometry, layers: u64) -> u64 {
        (self.page_bytes(kv) / PAGE_TOKENS).saturating_mul(layers)
    }
}

impl FromStr for KvType {
    type Err = String;

    fn from_str(text: &str) -> Result<KvType, String> {
        let names = || KvType::ALL.map(KvType::name).join(", ");
        let found = KvType::ALL.into_iter().find(|kv| kv.name() == text);
        found.ok_or_else(|| format!("unknown type of KV cache {text:?}; there are: {}", names()))
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_types_of_a_cache() {
        for kv in KvType::ALL {
            assert_eq!(kv.to_string().parse(), Ok(kv));
            assert!(ir::op::KV_TYPES.contains(&kv.dtype()));
        }
        let message = "fp8".parse::<KvType>().unwrap_err();
        assert!(message.contains("fp8") && message.contains("f16, int8, f32"), "{message}");
    }

    #[test]
    fn bytes_of_a_token_follow_from_the_layout() {
        let kv = KvGeometry { heads: 4, head_dim: 64, planes: 2 };
        assert_eq!(KvType::F16.bytes_per_token(kv, 10), 2 * 4 * 10 * 128);
        assert_eq!(KvType::Int8.bytes_per_token(kv, 10), 2 * 4 * 10 * 66);
        assert_eq!(KvType::F32.bytes_per_token(kv, 10), 2 * 4 * 10 * 256);
        let latent = KvGeometry { heads: 1, head_dim: 576, planes: 1 };
        assert_eq!(KvType::Int8.bytes_per_token(latent, 27), 27 * 578);
    }
}
