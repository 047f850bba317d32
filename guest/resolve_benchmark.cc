// What a page costs in the core, with no MMU on top: faults, aging, eviction. All figures are for one page.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "benchmark/benchmark.h"
#include "guest/memory_manager.h"
#include "guest/testing/page_content.h"

namespace quire {
namespace {

// As many blocks as the arena keeps populated when they are free, so that frames are recycled and not asked of the
// host again.
constexpr PageCount kGuest = PageCount::OfBlocks(4);

class Memory {
 public:
  explicit Memory(Placement placement) : guest_(manager_->AddGuest(kGuest, placement).value()) {
    Fill(Content::kNoise);
    guest_->Discard(All());
  }

  GfnRange All() const { return GfnRange(Gfn(0), kGuest); }
  GuestMemory& guest() { return *guest_; }
  SwapSpace& store() { return manager_->store(); }

  void Fill(Content content) {
    for (Gfn gfn; gfn < All().end(); ++gfn) {
      FillPage(guest_->HostAddress(Fault(gfn).FrameOf(gfn)), content, gfn.value());
    }
  }
  Resolution Fault(Gfn gfn) { return *guest_->Resolve(gfn, Access::kWrite, Wait::kMay); }
  // Faults all pages in, as an MMU that maps what it is given.
  void FaultAll() {
    for (Gfn gfn; gfn < All().end();) gfn = Fault(gfn).range.end();
  }
  void AgeAll() {
    for (uint64_t b = 0; b < kGuest.in_blocks_ceil(); ++b) guest_->Age(guest_->BlockAt(BlockNumber(b)));
  }
  void EvictAll() {
    for (uint64_t b = 0; b < kGuest.in_blocks_ceil(); ++b) guest_->Evict(guest_->BlockAt(BlockNumber(b)), scratch_);
  }

 private:
  std::unique_ptr<MemoryManager> manager_ =
      MemoryManager::Create({.limit = kGuest * 8, .reservations = kGuest}).value();
  GuestMemory* const guest_;
  EvictionScratch scratch_;
};

Placement PlacementOf(const benchmark::State& state) { return static_cast<Placement>(state.range(0)); }

// Runs `pass`, which deals with each page of the guest once, and `prepare` before each with the clock stopped.
template <class Prepare, class Pass>
void TimePasses(benchmark::State& state, Prepare prepare, Pass pass) {
  while (state.KeepRunningBatch(static_cast<int64_t>(kGuest.in_pages()))) {
    state.PauseTiming();
    prepare();
    state.ResumeTiming();
    pass();
  }
}

// A page that has never been touched: in the arena one recycled frame, zeroed; in a reservation the kernel populates
// the page, sixteen at a time.
void BM_ResolveAbsent(benchmark::State& state) {
  Memory memory(PlacementOf(state));
  TimePasses(
      state, [&] { memory.guest().Discard(memory.All()); }, [&] { memory.FaultAll(); });
}
BENCHMARK(BM_ResolveAbsent)->ArgName("arena")->Arg(1)->Arg(0);

void BM_ResolveResident(benchmark::State& state) {
  Memory memory(PlacementOf(state));
  memory.FaultAll();
  Gfn gfn;
  for (auto _ : state) {
    benchmark::DoNotOptimize(memory.Fault(gfn));
    gfn = gfn + PageCount(37);
    if (gfn >= memory.All().end()) gfn = gfn - kGuest;
  }
}
BENCHMARK(BM_ResolveResident)->ArgName("arena")->Arg(1);

void BM_ResolveSecondChance(benchmark::State& state) {
  Memory memory(PlacementOf(state));
  memory.FaultAll();
  TimePasses(
      state, [&] { memory.AgeAll(); }, [&] { memory.FaultAll(); });
}
BENCHMARK(BM_ResolveSecondChance)->ArgName("arena")->Arg(1)->Arg(0);

void BM_ResolveSwapped(benchmark::State& state) {
  Memory memory(PlacementOf(state));
  memory.Fill(Content::kCompressible);
  std::vector<Gfn> order;
  for (Gfn gfn; gfn < memory.All().end(); ++gfn) order.push_back(gfn);
  if (state.range(1) == 0) std::shuffle(order.begin(), order.end(), std::mt19937(1));
  TimePasses(
      state,
      [&] {
        memory.AgeAll();
        memory.EvictAll();
      },
      [&] {
        for (const Gfn gfn : order) memory.Fault(gfn);
      });
}
BENCHMARK(BM_ResolveSwapped)->ArgNames({"arena", "sequential"})->ArgsProduct({{1, 0}, {1, 0}});

void BM_Age(benchmark::State& state) {
  Memory memory(Placement::kArena);
  TimePasses(
      state, [&] { memory.FaultAll(); }, [&] { memory.AgeAll(); });
}
BENCHMARK(BM_Age);

void BM_Evict(benchmark::State& state) {
  Memory memory(PlacementOf(state));
  memory.Fill(Content::kCompressible);
  TimePasses(
      state,
      [&] {
        memory.FaultAll();
        memory.AgeAll();
      },
      [&] { memory.EvictAll(); });
}
BENCHMARK(BM_Evict)->ArgName("arena")->Arg(1)->Arg(0);

// --- The store by itself.

struct Pages {
  explicit Pages(Content content) {
    for (uint64_t i = 0; i < kCount; ++i) FillPage(page(i), content, i + 1);
  }
  std::byte* page(uint64_t i) { return bytes.get() + i * kPageSize; }

  static constexpr uint64_t kCount = 256;
  std::unique_ptr<std::byte[]> bytes = std::make_unique<std::byte[]>(kCount * kPageSize);
};

void BM_StoreAndFree(benchmark::State& state) {
  Memory memory(Placement::kArena);
  Pages pages(static_cast<Content>(state.range(0)));
  CompressionScratch scratch;
  uint64_t i = 0;
  for (auto _ : state) {
    const StoreResult result = memory.store().Store(pages.page(i++ % Pages::kCount), scratch);
    if (result.outcome == StoreOutcome::kStored) memory.store().Free(result.slot);
  }
}
BENCHMARK(BM_StoreAndFree)
    ->ArgName("content")
    ->Arg(static_cast<int>(Content::kSameFilled))
    ->Arg(static_cast<int>(Content::kCompressible))
    ->Arg(static_cast<int>(Content::kNoise));

void BM_Load(benchmark::State& state) {
  Memory memory(Placement::kArena);
  Pages pages(static_cast<Content>(state.range(0)));
  CompressionScratch scratch;
  std::vector<SwapSlot> slots;
  for (uint64_t i = 0; i < Pages::kCount; ++i) slots.push_back(memory.store().Store(pages.page(i), scratch).slot);
  uint64_t i = 0;
  for (auto _ : state) {
    if (!memory.store().Load(slots[i++ % slots.size()], pages.page(0)).ok()) state.SkipWithError("damaged");
  }
  for (const SwapSlot slot : slots) memory.store().Free(slot);
}
BENCHMARK(BM_Load)
    ->ArgName("content")
    ->Arg(static_cast<int>(Content::kSameFilled))
    ->Arg(static_cast<int>(Content::kCompressible));

}  // namespace
}  // namespace quire
