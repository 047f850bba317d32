// Nanoseconds to make and to check a page, by the share of fresh pairs: what a workload adds to each operation.
#include <benchmark/benchmark.h>

#include "workloads/content.h"
#include "workloads/content_ratio.h"

namespace quire {
namespace {

struct alignas(4096) Page {
  uint64_t words[kWordsPerPage];
};

uint64_t NonzeroPage(const Content& content) {
  uint64_t page = 0;
  while (IsZeroPage(content, page, 1)) ++page;
  return page;
}

void BM_GeneratePage(benchmark::State& state) {
  const Content content{.key = 1, .fresh_pairs = static_cast<uint64_t>(state.range(0))};
  const uint64_t number = NonzeroPage(content);
  Page page;
  uint32_t version = 0;
  for (auto _ : state) {
    GeneratePage(page.words, content, number, ++version);
    benchmark::DoNotOptimize(page);
  }
}
BENCHMARK(BM_GeneratePage)->Arg(8)->Arg(64)->Arg(kMostFreshPairs);

void BM_CheckPage(benchmark::State& state) {
  const Content content{.key = 1, .fresh_pairs = static_cast<uint64_t>(state.range(0))};
  const uint64_t number = NonzeroPage(content);
  Page page;
  GeneratePage(page.words, content, number, 1);
  for (auto _ : state) {
    benchmark::DoNotOptimize(page);
    bool good = CheckPage(page.words, content, number, 1).good;
    benchmark::DoNotOptimize(good);
  }
}
BENCHMARK(BM_CheckPage)->Arg(8)->Arg(64)->Arg(kMostFreshPairs);

void BM_CheckZeroPage(benchmark::State& state) {
  const Content content;
  Page page = {};
  for (auto _ : state) {
    benchmark::DoNotOptimize(page);
    bool good = CheckPage(page.words, content, 0, 0).good;
    benchmark::DoNotOptimize(good);
  }
}
BENCHMARK(BM_CheckZeroPage);

void BM_FreshPairsFor(benchmark::State& state) {
  for (auto _ : state) {
    uint64_t pairs = FreshPairsFor(kDefaultRatio, 1);
    benchmark::DoNotOptimize(pairs);
  }
}
BENCHMARK(BM_FreshPairsFor)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace quire
