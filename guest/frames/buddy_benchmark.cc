#include <cstdint>
#include <random>
#include <vector>

#include "benchmark/benchmark.h"
#include "guest/frames/buddy.h"

namespace quire {
namespace {

constexpr uint64_t kBlocks = 256;  // 512 MiB of frames

struct Arena {
  Arena() {
    for (uint64_t i = 0; i < kBlocks; ++i) buddy.AddBlock(FrameRange(FrameNumber(i * kPagesPerBlock), kOneBlock));
  }
  FrameTable table = FrameTable::Create(PageCount::OfBlocks(kBlocks)).value();
  BuddyAllocator buddy{&table};
};

// One pair at a time in an empty arena: each allocation breaks a whole block down, each free merges it again.
void BM_AllocateAndFreeFromWholeBlocks(benchmark::State& state) {
  Arena arena;
  const int order = static_cast<int>(state.range(0));
  for (auto _ : state) {
    const FrameNumber frame = *arena.buddy.Allocate(order);
    benchmark::DoNotOptimize(frame);
    arena.buddy.Free(frame, order);
  }
}
BENCHMARK(BM_AllocateAndFreeFromWholeBlocks)->DenseRange(0, kBlockOrder);

// Random frees and allocations in an arena that is mostly in use, as in steady state.
void BM_AllocateAndFreeInFragmentedArena(benchmark::State& state) {
  Arena arena;
  const int order = static_cast<int>(state.range(0));
  std::mt19937_64 random(1);
  std::vector<FrameNumber> runs;
  while (const auto frame = arena.buddy.Allocate(order)) runs.push_back(*frame);
  for (size_t i = runs.size() / 10; i > 0; --i) {
    std::swap(runs[random() % runs.size()], runs.back());
    arena.buddy.Free(runs.back(), order);
    runs.pop_back();
  }
  std::vector<uint32_t> victims(1 << 16);
  for (uint32_t& victim : victims) victim = static_cast<uint32_t>(random() % runs.size());
  size_t i = 0;
  for (auto _ : state) {
    FrameNumber& run = runs[victims[i++ % victims.size()]];
    arena.buddy.Free(run, order);
    run = *arena.buddy.Allocate(order);
  }
}
BENCHMARK(BM_AllocateAndFreeInFragmentedArena)->DenseRange(0, kBlockOrder);

// A fresh arena, all of it taken frame by frame and given back.
void BM_AllocateAllThenFreeAll(benchmark::State& state) {
  Arena arena;
  std::vector<FrameNumber> frames(kBlocks * kPagesPerBlock);
  for (auto _ : state) {
    for (FrameNumber& frame : frames) frame = *arena.buddy.Allocate(0);
    for (const FrameNumber frame : frames) arena.buddy.Free(frame, 0);
  }
  state.SetItemsProcessed(state.iterations() * 2 * static_cast<int64_t>(frames.size()));
}
BENCHMARK(BM_AllocateAllThenFreeAll);

// How well blocks empty out when frames are allocated and freed by groups (a zone, a part of a guest's block), first
// argument: the frames of a group. The arena is filled to 90 %, loses groups at random until 40 % are in use, and then
// groups come and go until each has been replaced 16 times on average. Time for a frame that goes and one that comes.
// Reported: the share of blocks that are wholly free in the end; 60 % would be best.
void BM_BlocksThatEmptyOut(benchmark::State& state) {
  Arena arena;
  std::mt19937_64 random(1);
  using Group = std::vector<FrameNumber>;
  const auto size = static_cast<size_t>(state.range(0));
  std::vector<Group> groups;
  const size_t all = kBlocks * kPagesPerBlock / size;
  const auto add = [&] {
    groups.emplace_back(size);
    for (FrameNumber& frame : groups.back()) frame = *arena.buddy.Allocate(0);
  };
  const auto remove = [&] {
    std::swap(groups[random() % groups.size()], groups.back());
    for (const FrameNumber frame : groups.back()) arena.buddy.Free(frame, 0);
    groups.pop_back();
  };
  while (groups.size() < all * 9 / 10) add();
  while (groups.size() > all * 4 / 10) remove();
  const auto replaced = static_cast<int64_t>(groups.size() * 16);
  while (state.KeepRunningBatch(replaced * static_cast<int64_t>(size))) {
    for (int64_t i = 0; i < replaced; ++i) {
      remove();
      add();
    }
  }
  state.counters["free_blocks"] = static_cast<double>(arena.buddy.free_runs(kBlockOrder)) / kBlocks;
}
BENCHMARK(BM_BlocksThatEmptyOut)->Arg(1)->Arg(64)->Arg(256)->Iterations(1);

void BM_AllocateContiguous(benchmark::State& state) {
  Arena arena;
  const ContiguousRequest request = {.count = PageCount(static_cast<uint64_t>(state.range(0))),
                                     .within = arena.table.range(),
                                     .alignment = PageCount(16)};
  for (auto _ : state) arena.buddy.FreeContiguous(*arena.buddy.AllocateContiguous(request));
}
BENCHMARK(BM_AllocateContiguous)->Arg(3)->Arg(600)->Arg(5000);

}  // namespace
}  // namespace quire
