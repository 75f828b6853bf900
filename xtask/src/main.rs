mod abi;
fn main() -> anyhow::Result<()> {
    abi::run(std::path::Path::new("."), std::path::Path::new(&std::env::args().nth(2).unwrap()), false)
}
