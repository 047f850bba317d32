// The policy on traces of touches, in a model of memory: how many faults it takes, and how many pages it brings in, for
// each touch. What they cost is another matter; a fault is some fifty pages' worth of decompression under KVM, and one
// page's for a software vCPU.
//
// The model: half of the blocks fit; the block that came in first goes out whole when another page has no room.
#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "guest/huge/granularity.h"

namespace quire {
namespace {

constexpr uint64_t kBlocks = 256;
constexpr uint64_t kPages = kBlocks * kPagesPerBlock;
constexpr PageCount kPool(kPages / 2);
constexpr uint64_t kRun = 16;

enum Trace : int64_t { kSequential, kTwoStreams, kRandom, kHotBlocks, kMovingSet };
constexpr const char* kTraceNames[] = {"sequential", "two_streams", "random", "hot_blocks", "moving_set"};

class TouchTrace {
 public:
  explicit TouchTrace(Trace trace) : trace_(trace) {}

  uint64_t Next() {
    const uint64_t i = count_++;
    switch (trace_) {
      case kSequential:
        return i % kPages;
      case kTwoStreams:
        return (i / 2 + (i % 2) * kPages / 2) % kPages;
      case kRandom:
        return random_() % kPages;
      case kHotBlocks:  // nine tenths of the touches to a tenth of the blocks
        return random_() % 10 < 9 ? random_() % (kPages / 10) : random_() % kPages;
      case kMovingSet:  // a quarter of the memory, that moves on
        return (i / 200'000 * (kPages / 4) + random_() % (kPages / 4)) % kPages;
    }
    return 0;
  }

 private:
  const Trace trace_;
  uint64_t count_ = 0;
  std::minstd_rand random_{1};
};

class ModelMemory {
 public:
  explicit ModelMemory(const GranularityOptions& options) : options_(options) {}

  void Touch(uint64_t page) {
    if (present_[page]) return;
    const uint64_t block = page / kPagesPerBlock, index = page % kPagesPerBlock;
    FaultHistory& history = histories_[block];
    const bool after_stream = block > 0 && CameJustBefore(whole_fault_[block - 1], faults_);
    Granularity chosen = ChooseGranularity(options_, history,
                                           {.index = index,
                                            .number = faults_++,
                                            .after_stream = after_stream,
                                            .may_be_whole = MayBeWhole(PolicyOf(options_), /*advised=*/false)});
    if (chosen == Granularity::kBlock && CameWholeLately(history, evicted_, kPool)) chosen = Granularity::kRun;
    uint64_t end = index + 1;
    if (chosen == Granularity::kRun) end = (index / kRun + 1) * kRun;
    if (chosen == Granularity::kBlock) {
      end = kPagesPerBlock;
      whole_fault_[block] = faults_ | 1;
      NoteWhole(history, evicted_);
    }
    for (uint64_t i = chosen == Granularity::kBlock ? 0 : index; i < end; ++i) BringIn(block, i);
    history.next_expected = static_cast<uint16_t>(end);
  }
  uint64_t faults() const { return faults_; }
  uint64_t pages_in() const { return pages_in_; }

 private:
  void BringIn(uint64_t block, uint64_t index) {
    if (present_[block * kPagesPerBlock + index]) return;
    present_[block * kPagesPerBlock + index] = true;
    if (pages_of_[block]++ == 0) queue_.push_back(block);
    ++pages_in_;
    for (++held_; held_ > kPool.in_pages();) EvictOldest();
  }
  void EvictOldest() {
    const uint64_t block = queue_.front();
    queue_.pop_front();
    for (uint64_t i = 0; i < kPagesPerBlock; ++i) present_[block * kPagesPerBlock + i] = false;
    held_ -= pages_of_[block];
    evicted_ += static_cast<uint32_t>(pages_of_[block]);
    pages_of_[block] = 0;
  }

  const GranularityOptions options_;
  std::vector<bool> present_ = std::vector<bool>(kPages);
  std::vector<uint64_t> pages_of_ = std::vector<uint64_t>(kBlocks);
  std::vector<FaultHistory> histories_ = std::vector<FaultHistory>(kBlocks);
  std::vector<uint32_t> whole_fault_ = std::vector<uint32_t>(kBlocks);
  std::deque<uint64_t> queue_;
  uint64_t held_ = 0, pages_in_ = 0;
  uint32_t faults_ = 0, evicted_ = 0;
};

void BM_Policy(benchmark::State& state) {
  TouchTrace trace(static_cast<Trace>(state.range(0)));
  ModelMemory memory({.blocks = state.range(1) != 0});
  for (auto _ : state) memory.Touch(trace.Next());
  const double touches = static_cast<double>(state.iterations());
  state.counters["faults"] = static_cast<double>(memory.faults()) / touches;
  state.counters["pages_in"] = static_cast<double>(memory.pages_in()) / touches;
  state.SetLabel(std::string(kTraceNames[state.range(0)]) + (state.range(1) != 0 ? ", blocks" : ", runs only"));
}
BENCHMARK(BM_Policy)
    ->ArgsProduct({{kSequential, kTwoStreams, kRandom, kHotBlocks, kMovingSet}, {0, 1}})
    ->Iterations(2'000'000);

}  // namespace
}  // namespace quire
