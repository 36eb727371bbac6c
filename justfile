# Shortcuts; `scripts/test` is the whole.
set positional-arguments

# Formatting, lints, documentation; licences where cargo-deny is installed.
check:
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
    if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; fi

# Every test; installs what they need.
test:
    scripts/test

# The simulation: so many hostile histories, from a fresh seed or a given one.
sim seeds="100000" seed="":
    PHALANX_SIM_SEEDS="{{ seeds }}" PHALANX_SEED="{{ if seed == '' { `date +%s` } else { seed } }}" cargo test --release -p phalanx-core --test simulation

# Chaos under load for so many seconds, from a fresh seed or a given one.
chaos seconds="180" seed="":
    PHALANX_CHAOS_SECONDS="{{ seconds }}" PHALANX_SEED="{{ seed }}" cargo test -p phalanx-cli --test chaos -- --nocapture

# phalanx beside its peers, half an hour; `just bench --quick` for a first look, `just bench --list` for the parts.
bench *args:
    cargo run --release -p bench -- "$@"

# The documentation, opened.
docs:
    cargo doc --workspace --no-deps --open
