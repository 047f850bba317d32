#include <memory>
#include <vector>

#include "benchmark/benchmark.h"
#include "guest/frames/arena.h"
#include "guest/frames/fake_block_source.h"

namespace quire {
namespace {

constexpr uint64_t kBlocks = 256;  // 512 MiB of frames

struct ArenaWithSource {
  FakeBlockSource source{kBlocks};
  std::unique_ptr<Arena> arena = Arena::Create(PageCount::OfBlocks(kBlocks), &source).value();
};

// One pair at a time: order 0 never leaves the CPU's list, the others go to the buddy allocator.
void BM_AllocateAndFree(benchmark::State& state) {
  static ArenaWithSource& shared = *new ArenaWithSource;  // by all threads of the benchmark
  const int order = static_cast<int>(state.range(0));
  for (auto _ : state) shared.arena->Free(*shared.arena->Allocate(order, Reserve::kNormal), order);
}
BENCHMARK(BM_AllocateAndFree)->Arg(0)->Arg(1)->Arg(4)->ThreadRange(1, 2)->UseRealTime();

// Many frames taken and then given back, so that all of them pass through the list in batches. Time for one pair.
void BM_AllocateAndFreeManyFrames(benchmark::State& state) {
  ArenaWithSource a;
  std::vector<FrameNumber> frames(100 * kPagesPerBlock);
  const FrameNumber keep_first_block_live = *a.arena->Allocate(0, Reserve::kNormal);
  while (state.KeepRunningBatch(static_cast<int64_t>(frames.size()))) {
    for (FrameNumber& frame : frames) frame = *a.arena->Allocate(0, Reserve::kNormal);
    for (const FrameNumber frame : frames) a.arena->Free(frame, 0);
  }
  a.arena->Free(keep_first_block_live, 0);
}
BENCHMARK(BM_AllocateAndFreeManyFrames);

void BM_Counts(benchmark::State& state) {
  ArenaWithSource a;
  for (auto _ : state) benchmark::DoNotOptimize(a.arena->counts());
}
BENCHMARK(BM_Counts);

}  // namespace
}  // namespace quire
