// What it costs to store a page and to load it, and to allocate its bytes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "benchmark/benchmark.h"
#include "guest/frames/pool.h"
#include "guest/swap/duplicate_hints.h"
#include "guest/swap/slab_zone.h"
#include "guest/swap/swap_slot.h"
#include "guest/swap/swap_space.h"
#include "guest/swap/testing/real_pages.h"
#include "guest/swap/zstd_page.h"

namespace quire {
namespace {

std::unique_ptr<Pool> MakePool() {
  return Pool::Create({.limit = PageCount::OfBlocks(64), .reservations = {}, .use_memfd = true}).value();
}

struct PoolWithZone {
  std::unique_ptr<Pool> pool = MakePool();
  SlabZone zone{*pool};
};

PoolWithZone& SharedZone() {
  static PoolWithZone& shared = *new PoolWithZone;  // by all threads of a benchmark
  return shared;
}

// One object at a time, by all threads of one size: they meet in its lock.
void BM_AllocateAndFree(benchmark::State& state) {
  SlabZone& zone = SharedZone().zone;
  for (auto _ : state) zone.Free(*zone.Allocate(2000));
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_AllocateAndFree)->ThreadRange(1, 2)->UseRealTime();

// As stored pages come and go: each thread has a thousand objects of all sizes, and replaces one after the other in no
// order. Time for one pair.
void BM_ReplaceObjects(benchmark::State& state) {
  SlabZone& zone = SharedZone().zone;
  std::mt19937 random(static_cast<uint32_t>(state.thread_index()));
  const auto allocate = [&] { return *zone.Allocate(600 + random() % 3000); };
  std::vector<SlabObject> objects;
  for (int i = 0; i < 1000; ++i) objects.push_back(allocate());
  for (auto _ : state) {
    SlabObject& object = objects[random() % objects.size()];
    zone.Free(object);
    object = allocate();
  }
  for (const SlabObject& object : objects) zone.Free(object);
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_ReplaceObjects)->ThreadRange(1, 2)->UseRealTime();

struct SpaceWithPages {
  std::unique_ptr<Pool> pool = MakePool();
  SwapSpace space{*pool};
  std::vector<RealPage> pages = Compressible();

  std::vector<RealPage> Compressible() {
    std::vector<RealPage> compressible;
    CompressionScratch scratch;
    for (const RealPage& page : RealPages()) {
      const StoreResult result = space.Store(page.data(), scratch);
      if (result.outcome != StoreOutcome::kStored) continue;
      space.Free(result.slot);
      compressible.push_back(page);
    }
    return compressible;
  }
};

SpaceWithPages& SharedSpace() {
  static SpaceWithPages& shared = *new SpaceWithPages;
  return shared;
}

// Pages of this program, and their slots are freed again a thousand pages later.
void BM_StoreAndFree(benchmark::State& state) {
  SpaceWithPages& shared = SharedSpace();
  CompressionScratch scratch;
  std::vector<SwapSlot> slots;
  size_t next = static_cast<size_t>(state.thread_index()) * 500;
  for (auto _ : state) {
    const SwapSlot slot = shared.space.Store(shared.pages[next % shared.pages.size()].data(), scratch).slot;
    if (slots.size() < 1000) {
      slots.push_back(slot);
    } else {
      shared.space.Free(slots[next % 1000]);
      slots[next % 1000] = slot;
    }
    ++next;
  }
  for (const SwapSlot slot : slots) shared.space.Free(slot);
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_StoreAndFree)->ThreadRange(1, 2)->UseRealTime();

// Pages of this program that are all different, as content without duplicates is; with hints (1) each is looked up and
// noted for nothing.
void BM_StoreDifferent(benchmark::State& state) {
  SpaceWithPages shared;
  if (state.range(0) == 1) shared.space.SetDuplicateHints(DuplicateHints::Create(PageCount::OfBlocks(64)).value());
  CompressionScratch scratch;
  std::vector<SwapSlot> slots(10'000);
  uint64_t next = 0;
  for (auto _ : state) {
    RealPage& page = shared.pages[next % shared.pages.size()];
    std::memcpy(page.data() + 2048, &next, sizeof next);
    SwapSlot& slot = slots[next % slots.size()];
    if (next >= slots.size()) shared.space.Free(slot);
    slot = shared.space.Store(page.data(), scratch).slot;
    ++next;
  }
  for (uint64_t i = 0; i < std::min<uint64_t>(next, slots.size()); ++i) shared.space.Free(slots[i]);
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_StoreDifferent)->Arg(0)->Arg(1)->UseRealTime();

// Pages that are stored already.
void BM_StoreDuplicate(benchmark::State& state) {
  SpaceWithPages shared;
  shared.space.SetDuplicateHints(DuplicateHints::Create(PageCount::OfBlocks(64)).value());
  CompressionScratch scratch;
  std::vector<SwapSlot> slots;
  for (const RealPage& page : shared.pages) slots.push_back(shared.space.Store(page.data(), scratch).slot);
  size_t next = 0;
  for (auto _ : state) {
    shared.space.Free(shared.space.Store(shared.pages[next++ % shared.pages.size()].data(), scratch).slot);
  }
  for (const SwapSlot slot : slots) shared.space.Free(slot);
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_StoreDuplicate)->UseRealTime();

// As they were stored, or compressed once more, by whichever thread comes first.
void Load(benchmark::State& state, bool recompress) {
  SpaceWithPages& shared = SharedSpace();
  CompressionScratch scratch;
  std::vector<SwapSlot> slots;
  for (const RealPage& page : shared.pages) slots.push_back(shared.space.Store(page.data(), scratch).slot);
  if (recompress) shared.space.Recompress(PageCount(2 * slots.size()), SwapSpace::Age::kAny);
  RealPage page;
  size_t next = static_cast<size_t>(state.thread_index()) * 500;
  for (auto _ : state) {
    if (!shared.space.Load(slots[next++ % slots.size()], page.data()).ok()) state.SkipWithError("damaged");
  }
  for (const SwapSlot slot : slots) shared.space.Free(slot);
  state.SetItemsProcessed(state.iterations());
}
void BM_Load(benchmark::State& state) { Load(state, /*recompress=*/false); }
BENCHMARK(BM_Load)->ThreadRange(1, 2)->UseRealTime();
void BM_LoadRecompressed(benchmark::State& state) { Load(state, /*recompress=*/true); }
BENCHMARK(BM_LoadRecompressed)->ThreadRange(1, 2)->UseRealTime();

// A page that the store has with LZ4: decompress, verify, compress with zstd, put in its place. `bytes`: what a page
// takes then, `lz4`: and before.
void BM_Recompress(benchmark::State& state) {
  SpaceWithPages shared;
  CompressionScratch scratch;
  uint64_t before = 0, after = 0;
  while (state.KeepRunningBatch(static_cast<int64_t>(shared.pages.size()))) {
    state.PauseTiming();
    std::vector<SwapSlot> slots;
    for (const RealPage& page : shared.pages) slots.push_back(shared.space.Store(page.data(), scratch).slot);
    before = shared.space.statistics().stored_bytes.in_bytes();
    state.ResumeTiming();
    shared.space.Recompress(PageCount(slots.size()), SwapSpace::Age::kAny);
    state.PauseTiming();
    after = shared.space.statistics().stored_bytes.in_bytes();
    for (const SwapSlot slot : slots) shared.space.Free(slot);
    state.ResumeTiming();
  }
  state.SetItemsProcessed(state.iterations());
  state.counters["lz4"] = static_cast<double>(before / shared.pages.size());
  state.counters["bytes"] = static_cast<double>(after / shared.pages.size());
}
BENCHMARK(BM_Recompress);

// zstd alone, by level.
void BM_ZstdCompress(benchmark::State& state) {
  const std::vector<RealPage>& pages = SharedSpace().pages;
  ZstdCompressor compressor(static_cast<int>(state.range(0)));
  size_t next = 0;
  uint64_t bytes = 0;
  for (auto _ : state) bytes += compressor.Compress(pages[next++ % pages.size()].data(), kPageSize).size();
  state.counters["bytes"] = static_cast<double>(bytes / next);
}
BENCHMARK(BM_ZstdCompress)->Arg(1)->Arg(3)->Arg(6);

void BM_ZstdDecompress(benchmark::State& state) {
  ZstdCompressor compressor(static_cast<int>(state.range(0)));
  ZstdDecompressors decompressors;
  std::vector<std::vector<std::byte>> all;
  for (const RealPage& page : SharedSpace().pages) {
    const absl::Span<const std::byte> bytes = compressor.Compress(page.data(), kPageSize);
    all.emplace_back(bytes.begin(), bytes.end());
  }
  RealPage page;
  size_t next = 0;
  for (auto _ : state) {
    if (!decompressors.Decompress(all[next++ % all.size()], page.data())) state.SkipWithError("damaged");
  }
}
BENCHMARK(BM_ZstdDecompress)->Arg(1)->Arg(3)->Arg(6);

// A page that came back goes out again as it was.
void BM_StoreUnchanged(benchmark::State& state) {
  SpaceWithPages& shared = SharedSpace();
  CompressionScratch scratch;
  std::vector<SwapSlot> slots;
  for (const RealPage& page : shared.pages) slots.push_back(shared.space.Store(page.data(), scratch).slot);
  size_t next = 0;
  for (auto _ : state) {
    const size_t i = next++ % slots.size();
    if (!shared.space.Keep(slots[i]) || !shared.space.Holds(slots[i], shared.pages[i].data()) ||
        !shared.space.Revive(slots[i])) {
      state.SkipWithError("not kept");
    }
  }
  for (const SwapSlot slot : slots) shared.space.Free(slot);
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_StoreUnchanged)->UseRealTime();

}  // namespace
}  // namespace quire
