// What it costs to store a page and to load it, and to allocate its bytes.
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "absl/status/statusor.h"
#include "base/units.h"
#include "benchmark/benchmark.h"
#include "guest/frames/pool.h"
#include "guest/swap/slab_zone.h"
#include "guest/swap/swap_slot.h"
#include "guest/swap/swap_space.h"
#include "guest/swap/testing/real_pages.h"

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

void BM_Load(benchmark::State& state) {
  SpaceWithPages& shared = SharedSpace();
  CompressionScratch scratch;
  std::vector<SwapSlot> slots;
  for (const RealPage& page : shared.pages) slots.push_back(shared.space.Store(page.data(), scratch).slot);
  RealPage page;
  size_t next = static_cast<size_t>(state.thread_index()) * 500;
  for (auto _ : state) {
    if (!shared.space.Load(slots[next++ % slots.size()], page.data()).ok()) state.SkipWithError("damaged");
  }
  for (const SwapSlot slot : slots) shared.space.Free(slot);
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_Load)->ThreadRange(1, 2)->UseRealTime();

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
