//! The prefix cache under the engine, over a device whose answers show every wrong page.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::kv::key::PageKey;
use crate::kv::salt::CacheSalt;
use crate::kv::{PrefixCacheOptions, Tending};
use crate::serving::CachedTokens;
use crate::testing::{FakeDevice, TinyModel, shapes};

const VOCABULARY: usize = shapes::VOCABULARY;

fn manifest() -> Manifest {
    let folder = tempfile::tempdir().unwrap();
    TinyModel::new().write(folder.path())
}

fn options(host_pages: u64) -> PrefixCacheOptions {
    PrefixCacheOptions { host_bytes: host_pages * manifest().page_bytes(), ..PrefixCacheOptions::default() }
}

fn engine_with(manifest: &Manifest, pages: u64, options: &PrefixCacheOptions) -> Engine {
    let mut engine =
        Engine::with_device(manifest, Box::new(FakeDevice::new(manifest, pages)), manifest.model.max_context);
    engine.enable_prefix_cache(options).unwrap();
    engine
}

fn engine(pages: u64, host_pages: u64) -> Engine {
    engine_with(&manifest(), pages, &options(host_pages))
}

fn check(engine: &Engine) {
    engine.prefixes.as_ref().unwrap().check(&engine.pool);
}

fn salt(tenant: usize) -> CacheSalt {
    if tenant == 0 { CacheSalt::PUBLIC } else { CacheSalt::new(Some(&tenant.to_string()), None) }
}

fn text(seed: u32, tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|i| (i * 7 + i / 16 + seed * 11) % 40).collect()
}

/// Opens a prompt, computes the rest of it, checks its logits and gives what was cached.
fn ask(engine: &mut Engine, salt: &CacheSalt, prompt: &[u32]) -> (SequenceId, CachedTokens) {
    let (id, cached) = engine.open_cached(salt, prompt).unwrap();
    let rest = &prompt[cached.total() as usize..];
    let logits = engine.step(&[Chunk { sequence: id, tokens: rest, logits: Rows::Last }]).unwrap();
    assert_eq!(logits.row(0).unwrap(), FakeDevice::row(prompt, VOCABULARY));
    check(engine);
    (id, cached)
}

fn device(tokens: u64) -> CachedTokens {
    CachedTokens { device: tokens, ..CachedTokens::default() }
}

#[test]
fn full_pages_are_found_again_and_one_token_is_always_computed() {
    let mut engine = engine(16, 0);
    let prompt = text(1, 48);
    for (length, expected) in [(48, 0), (48, 47), (47, 46), (33, 32), (32, 31), (17, 16), (16, 15), (15, 0), (1, 0)] {
        let (id, cached) = ask(&mut engine, &CacheSalt::PUBLIC, &prompt[..length]);
        assert_eq!(cached, device(expected), "{length} tokens");
        engine.close_sequence(id).unwrap();
    }
    let (id, cached) = engine.open_cached(&CacheSalt::PUBLIC, &[]).unwrap();
    assert_eq!(cached.total(), 0);
    engine.close_sequence(id).unwrap();
    assert_eq!((engine.available_pages(), engine.prefix_cache_stats().device_pages), (16, 3));
}

#[test]
fn tenants_share_nothing_but_what_is_public() {
    let mut engine = engine(32, 0);
    let prompt = text(1, 40);
    let (a, b) = (salt(1), salt(2));
    let (id, _) = ask(&mut engine, &a, &prompt);
    engine.close_sequence(id).unwrap();
    for other in [&b, &CacheSalt::PUBLIC] {
        let (id, cached) = ask(&mut engine, other, &prompt);
        assert_eq!(cached.total(), 0, "another tenant's pages are not found");
        engine.close_sequence(id).unwrap();
    }
    // What was computed for everybody serves every tenant, whose own pages then follow it.
    let long = [&text(5, 32)[..], &text(6, 32)].concat();
    let (id, _) = ask(&mut engine, &CacheSalt::PUBLIC, &long[..33]);
    engine.close_sequence(id).unwrap();
    let (id, cached) = ask(&mut engine, &a, &long);
    assert_eq!(cached, device(32));
    engine.close_sequence(id).unwrap();
    assert_eq!(ask(&mut engine, &a, &long).1, device(63));
    assert_eq!(ask(&mut engine, &b, &long).1, device(32));
    assert_eq!(ask(&mut engine, &CacheSalt::PUBLIC, &long).1, device(32));
}

#[test]
fn sequences_that_computed_the_same_text_end_up_with_the_same_pages() {
    let mut engine = engine(8, 0);
    let prompt = text(1, 32);
    let ids = [(); 3].map(|()| engine.open_cached(&CacheSalt::PUBLIC, &prompt).unwrap().0);
    let chunks = ids.map(|sequence| Chunk { sequence, tokens: &prompt[..31], logits: Rows::None });
    assert!(engine.step(&chunks).is_ok());
    check(&engine);
    // One first page for all, and a second one each that is not full.
    assert_eq!(engine.pool.free_pages(), 8 - 4);
    engine.step(&ids.map(|sequence| Chunk { sequence, tokens: &prompt[31..], logits: Rows::None })).unwrap();
    assert_eq!(engine.pool.free_pages(), 8 - 2);
    let tables = ids.map(|id| engine.pool.table(id).unwrap().to_vec());
    assert!(tables[0] == tables[1] && tables[1] == tables[2]);
}

#[test]
fn pages_are_given_up_least_recently_used_first_and_come_back_from_the_host() {
    let mut engine = engine(4, 100);
    for seed in [1, 2] {
        let (id, _) = ask(&mut engine, &CacheSalt::PUBLIC, &text(seed, 32));
        engine.close_sequence(id).unwrap();
    }
    let (id, cached) = ask(&mut engine, &CacheSalt::PUBLIC, &text(1, 33));
    assert_eq!(cached, device(32));
    engine.close_sequence(id).unwrap();
    // The third page of that took the leaf of the other text, not a page of this.
    assert_eq!(engine.prefix_cache_stats().evicted_pages, 1);
    let (id, cached) = ask(&mut engine, &CacheSalt::PUBLIC, &text(2, 33));
    assert_eq!(cached, CachedTokens { device: 16, host: 16, disk: 0 });
    engine.close_sequence(id).unwrap();
    check(&engine);
}

#[test]
fn a_full_cache_of_running_sequences_refuses_and_loses_nothing() {
    let mut engine = engine(4, 8);
    let (a, _) = ask(&mut engine, &CacheSalt::PUBLIC, &text(1, 48));
    assert_eq!(engine.available_pages(), 1);
    let (b, cached) = ask(&mut engine, &CacheSalt::PUBLIC, &text(1, 48)[..40]);
    assert_eq!((cached, engine.available_pages()), (device(39), 0));
    let chunk = Chunk { sequence: a, tokens: &[1], logits: Rows::Last };
    assert!(matches!(engine.step(&[chunk]), Err(EngineError::Pages(PageError::OutOfPages { needed: 1, free: 0 }))));
    // No page is left for a copy of the last one, so that its tokens are computed again.
    let (c, cached) = engine.open_cached(&CacheSalt::PUBLIC, &text(1, 48)).unwrap();
    assert_eq!(cached, device(32));
    assert!(matches!(engine.fork_sequence(a, 40), Err(EngineError::Pages(PageError::OutOfPages { .. }))));
    check(&engine);
    [a, b, c].into_iter().for_each(|id| engine.close_sequence(id).unwrap());
    check(&engine);
    assert_eq!(engine.available_pages(), 4);
}

/// Of a page that does not go on as the prompt does, its beginning is copied: from the device, the host and the disk.
#[test]
fn the_beginning_of_another_page_is_copied_from_every_tier() {
    let fork = |count: usize| -> Vec<u32> { text(1, 48)[..count].iter().copied().chain(text(2, 30)).collect() };
    let dir = tempfile::tempdir().unwrap();
    for (host_bytes, on_disk) in [(1 << 20, false), (0, true), (1 << 20, true)] {
        let dir = on_disk.then(|| dir.path().join(host_bytes.to_string()));
        let options = PrefixCacheOptions { host_bytes, dir, disk_bytes: 1 << 20 };
        let mut engine = engine_with(&manifest(), 8, &options);
        let (id, _) = ask(&mut engine, &salt(1), &text(1, 48));
        engine.close_sequence(id).unwrap();
        for (count, known) in [(32, 32), (33, 33), (40, 40), (47, 47), (20, 20), (5, 0)] {
            let (id, cached) = ask(&mut engine, &salt(1), &fork(count));
            // Tokens that happen to be equal beyond the fork count too.
            assert!((known..known + 3).contains(&cached.total()), "{count}, {host_bytes} {on_disk}: {cached:?}");
            engine.close_sequence(id).unwrap();
            let (id, cached) = ask(&mut engine, &salt(100 + count), &fork(count)[..17]);
            assert_eq!(cached.total(), 0, "another tenant's page");
            engine.close_sequence(id).unwrap();
            // Everything else goes to the next tier.
            let (id, _) = ask(&mut engine, &salt(3), &text(count as u32 + 7, 120));
            engine.close_sequence(id).unwrap();
            assert!(engine.flush_prefix_cache(Duration::from_secs(60)).unwrap());
            check(&engine);
        }
        if on_disk {
            drop(engine);
            let mut engine = engine_with(&manifest(), 8, &options);
            engine.wait_until_prefixes_are_warm();
            let (_, cached) = ask(&mut engine, &salt(1), &fork(44));
            assert!((44..47).contains(&cached.total()), "{cached:?}");
        }
    }
}

#[test]
fn pages_on_disk_outlive_the_engine_and_damage_is_a_miss() {
    let (dir, manifest) = (tempfile::tempdir().unwrap(), manifest());
    let prompt = text(3, 100);
    let on_disk = PrefixCacheOptions { host_bytes: 0, dir: Some(dir.path().into()), disk_bytes: 1 << 20 };
    let mut first = engine_with(&manifest, 16, &on_disk);
    ask(&mut first, &salt(1), &prompt);
    assert!(first.flush_prefix_cache(Duration::from_secs(60)).unwrap());
    assert_eq!(first.prefix_cache_stats().disk_failures, 0);
    drop(first);
    let ask_again = |options: &PrefixCacheOptions, tenant: usize| {
        let mut engine = engine_with(&manifest, 16, options);
        engine.wait_until_prefixes_are_warm();
        ask(&mut engine, &salt(tenant), &prompt).1
    };
    assert_eq!(ask_again(&on_disk, 1), CachedTokens { disk: 96, ..CachedTokens::default() });
    assert_eq!(ask_again(&on_disk, 2).total(), 0, "another tenant's pages are not found on disk either");
    let warm = PrefixCacheOptions { host_bytes: 1 << 20, ..on_disk.clone() };
    assert_eq!(ask_again(&warm, 1), CachedTokens { host: 96, ..CachedTokens::default() });
    // Another artifact has a folder of its own.
    let mut other = manifest.clone();
    other.producer = "another".into();
    assert_eq!(ask(&mut engine_with(&other, 16, &on_disk), &salt(1), &prompt).1.total(), 0);
    // Every file is cut short by a byte.
    for folder in std::fs::read_dir(dir.path()).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let file = std::fs::File::options().write(true).open(file.unwrap().path()).unwrap();
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        }
    }
    assert_eq!(ask_again(&on_disk, 1).total(), 0);
}

/// What a process before left on disk comes to the device when there is nothing to compute, and takes at most half of it.
#[test]
fn pages_on_disk_are_brought_to_the_device_between_steps() {
    let (dir, manifest) = (tempfile::tempdir().unwrap(), manifest());
    let stored = PrefixCacheOptions { host_bytes: 1 << 20, dir: Some(dir.path().into()), disk_bytes: 1 << 20 };
    let fork: Vec<u32> = text(1, 48).into_iter().chain(text(2, 40)).collect();
    let prompts = [(1, text(1, 100)), (1, fork), (2, text(3, 60))];
    let mut first = engine_with(&manifest, 32, &stored);
    for (tenant, prompt) in &prompts {
        let (id, _) = ask(&mut first, &salt(*tenant), prompt);
        first.close_sequence(id).unwrap();
    }
    assert!(first.flush_prefix_cache(Duration::from_secs(60)).unwrap());
    drop(first);
    for pages in [64, 8] {
        let mut engine = engine_with(&manifest, pages, &stored);
        engine.wait_until_prefixes_are_warm();
        // 6 + 2 + 3 pages, of which a few at a time come between steps.
        let mut tended = 0;
        while engine.tend_prefix_cache().unwrap() == Tending::Now {
            let (id, _) = ask(&mut engine, &salt(9), &text(7 + tended, 16));
            engine.close_sequence(id).unwrap();
            check(&engine);
            tended += 1;
        }
        let restored = engine.prefix_cache_stats().restored_pages;
        if pages == 8 {
            assert!((1..=4).contains(&restored), "{restored}");
        } else {
            assert_eq!((restored, tended), (11, 2));
        }
        for (tenant, prompt) in &prompts {
            let (id, cached) = ask(&mut engine, &salt(*tenant), prompt);
            assert_eq!(cached.total(), prompt.len() as u64 / 16 * 16, "{cached:?}");
            assert!(pages == 8 || cached.host + cached.disk == 0, "{cached:?}");
            engine.close_sequence(id).unwrap();
            check(&engine);
        }
    }
}

/// A page whose beginning is gone is left where it is.
#[test]
fn pages_without_a_beginning_are_not_brought() {
    let (dir, manifest) = (tempfile::tempdir().unwrap(), manifest());
    let stored = PrefixCacheOptions { host_bytes: 1 << 20, dir: Some(dir.path().into()), disk_bytes: 1 << 20 };
    let mut engine = engine_with(&manifest, 16, &stored);
    let (id, _) = ask(&mut engine, &salt(1), &text(1, 64));
    engine.close_sequence(id).unwrap();
    assert!(engine.flush_prefix_cache(Duration::from_secs(60)).unwrap());
    drop(engine);
    let root = PageKey::chain(PageKey::root(&salt(1), 0), &text(1, 32));
    let name = blake3::Hash::from_bytes(*root[1].as_bytes()).to_hex().to_string();
    let folder = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(folder.join(name).with_extension("kv")).unwrap();
    let mut engine = engine_with(&manifest, 16, &stored);
    engine.wait_until_prefixes_are_warm();
    while engine.tend_prefix_cache().unwrap() == Tending::Now {}
    assert_eq!(engine.prefix_cache_stats().restored_pages, 1);
    check(&engine);
}

#[test]
fn a_prefix_cache_is_turned_on_once_and_needs_its_folder() {
    let mut engine = engine(4, 0);
    assert!(matches!(engine.enable_prefix_cache(&options(0)), Err(EngineError::Option { .. })));
    let manifest = manifest();
    let mut engine = Engine::with_device(&manifest, Box::new(FakeDevice::new(&manifest, 4)), 64);
    let file = tempfile::NamedTempFile::new().unwrap();
    let bad = PrefixCacheOptions { dir: Some(file.path().join("x")), ..options(0) };
    let error = engine.enable_prefix_cache(&bad).unwrap_err().to_string();
    assert!(error.contains(&*file.path().to_string_lossy()), "{error}");
    // Off, it knows nothing and changes nothing.
    let (id, cached) = engine.open_cached(&CacheSalt::PUBLIC, &text(1, 40)).unwrap();
    assert_eq!((cached.total(), engine.pool.tokens(id).unwrap()), (0, 0));
}

#[test]
fn the_rotary_table_is_part_of_a_prefix() {
    let mut manifest = manifest();
    manifest.model.rope_switch = Some(40);
    let mut engine = engine_with(&manifest, 32, &options(0));
    let long = text(1, 60);
    let (id, _) = ask(&mut engine, &CacheSalt::PUBLIC, &long[..36]);
    // It grows past the switch and is computed again by the long table, whose pages are others.
    engine.step(&[Chunk { sequence: id, tokens: &long[36..44], logits: Rows::Last }]).unwrap();
    check(&engine);
    engine.close_sequence(id).unwrap();
    assert_eq!(engine.prefix_cache_stats().device_pages, 4);
    for (tokens, cached) in [(60, 32), (40, 32), (41, 40), (20, 19)] {
        let (id, found) = ask(&mut engine, &CacheSalt::PUBLIC, &long[..tokens]);
        assert_eq!(found, device(cached));
        assert_eq!(engine.rope.as_ref().unwrap().table(id), i32::from(tokens > 40));
        engine.close_sequence(id).unwrap();
    }
}

#[derive(Clone, Debug)]
enum Action {
    /// Tenant, the choices that make up a prompt, tokens of the last page.
    Open(usize, Vec<u32>, usize),
    Step(usize, usize),
    Fork(usize, usize),
    Truncate(usize, usize),
    Close(usize),
    Fail(usize),
}

fn actions(count: usize) -> impl Strategy<Value = Vec<Action>> {
    let which = 0..8usize;
    let prompt = prop::collection::vec(0u32..2, 0..5);
    let action = prop_oneof![
        4 => (0..3usize, prompt, 1..17usize).prop_map(|(t, p, n)| Action::Open(t, p, n)),
        6 => (which.clone(), 1..30usize).prop_map(|(s, n)| Action::Step(s, n)),
        1 => (which.clone(), 0..101usize).prop_map(|(s, n)| Action::Fork(s, n)),
        1 => (which.clone(), 0..101usize).prop_map(|(s, n)| Action::Truncate(s, n)),
        4 => which.clone().prop_map(Action::Close),
        1 => which.prop_map(Action::Fail),
    ];
    prop::collection::vec(action, count)
}

/// The engine and what it must agree with: the text of each sequence.
struct World {
    engine: Engine,
    sequences: Vec<(SequenceId, Vec<u32>)>,
}

impl World {
    fn pick(&self, i: usize) -> Option<usize> {
        (!self.sequences.is_empty()).then(|| i % self.sequences.len())
    }

    fn apply(&mut self, action: &Action) {
        match action {
            Action::Open(tenant, pages, last) => self.open(*tenant, pages, *last),
            Action::Step(i, tokens) => {
                let Some(i) = self.pick(*i) else { return };
                let start = self.sequences[i].1.len();
                let tokens: Vec<u32> = (start..start + tokens).map(|t| (t % 3) as u32).collect();
                self.step(i, &tokens);
            }
            Action::Fork(i, percent) => {
                let Some(i) = self.pick(*i) else { return };
                let (id, text) = self.sequences[i].clone();
                let tokens = text.len() * percent / 100;
                let free = self.engine.available_pages();
                match self.engine.fork_sequence(id, tokens as u64) {
                    Ok(fork) => self.sequences.push((fork, text[..tokens].to_vec())),
                    Err(_) => assert_eq!((free, tokens % 16 == 0), (0, false)),
                }
            }
            Action::Truncate(i, percent) => {
                let Some(i) = self.pick(*i) else { return };
                let (id, text) = &mut self.sequences[i];
                let tokens = text.len() * percent / 100;
                let free = self.engine.available_pages();
                match self.engine.truncate_sequence(*id, tokens as u64) {
                    Ok(()) => text.truncate(tokens),
                    Err(_) => assert_eq!((free, tokens % 16 == 0), (0, false)),
                }
            }
            Action::Close(i) => {
                let Some(i) = self.pick(*i) else { return };
                let (id, _) = self.sequences.swap_remove(i);
                self.engine.close_sequence(id).unwrap();
            }
            Action::Fail(i) => {
                let Some(i) = self.pick(*i) else { return };
                let bad = Chunk { sequence: self.sequences[i].0, tokens: &[1, 2, 99], logits: Rows::Last };
                assert!(self.engine.step(&[bad]).is_err());
            }
        }
    }

    fn open(&mut self, tenant: usize, pages: &[u32], last: usize) {
        let mut prompt: Vec<u32> = pages.iter().flat_map(|choice| [choice + 5; 16]).collect();
        prompt.extend((0..last).map(|t| (t % 3) as u32));
        let (id, cached) = self.engine.open_cached(&salt(tenant), &prompt).unwrap();
        let known = cached.total() as usize;
        assert!(known < prompt.len());
        self.sequences.push((id, prompt[..known].to_vec()));
        self.step(self.sequences.len() - 1, &prompt[known..]);
    }

    fn step(&mut self, i: usize, tokens: &[u32]) {
        let (id, text) = &mut self.sequences[i];
        let needed = self.engine.pool.pages_to_append(*id, tokens.len() as u64).unwrap();
        let available = self.engine.available_pages();
        match self.engine.step(&[Chunk { sequence: *id, tokens, logits: Rows::Last }]) {
            Ok(logits) => {
                text.extend_from_slice(tokens);
                assert_eq!(logits.row(0).unwrap(), FakeDevice::row(text, VOCABULARY));
            }
            Err(EngineError::TooLong { .. }) => {}
            Err(error) => assert!(needed > available, "{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Pages, tree and tiers under 256 × 300 random actions: every logit is that of its own text, no page is lost.
    #[test]
    fn the_cache_changes_no_answer_and_loses_no_page(
        pages in 3u64..24, host in 0u64..8, actions in actions(300),
    ) {
        let mut world = World { engine: engine(pages, host), sequences: Vec::new() };
        for action in &actions {
            world.apply(action);
            check(&world.engine);
        }
        for (id, _) in std::mem::take(&mut world.sequences) {
            world.engine.close_sequence(id).unwrap();
        }
        check(&world.engine);
        prop_assert_eq!(world.engine.available_pages(), pages);
    }
}
