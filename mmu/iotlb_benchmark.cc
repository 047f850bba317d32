#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "base/check.h"
#include "benchmark/benchmark.h"
#include "mmu/fake_memory.h"
#include "mmu/iotlb.h"
#include "notifiers/notifier_chain.h"

namespace quire {
namespace {

void ReadBytes(Iotlb& iotlb, uint64_t gfn, absl::Span<std::byte> bytes) {
  QUIRE_CHECK(iotlb.Read(ByteCount::Bytes(gfn * kPageSize), bytes).ok());
  benchmark::DoNotOptimize(bytes.data());
}

// A read of so many bytes of pages that are at hand: a descriptor, or a page.
void BM_CachedRead(benchmark::State& state) {
  FakeMemory memory(1);
  Iotlb iotlb(memory);
  std::array<std::byte, kPageSize> bytes;
  uint64_t gfn = 0;
  for (auto _ : state) ReadBytes(iotlb, gfn++ % 4, absl::MakeSpan(bytes).first(state.range(0)));
}
BENCHMARK(BM_CachedRead)->Arg(2)->Arg(16)->Arg(4096);

// Of one page more than it has translations, in turn, with a handler that does next to nothing: each read misses.
void BM_Miss(benchmark::State& state) {
  FakeMemory memory(1);
  Iotlb iotlb(memory);
  std::array<std::byte, 16> bytes;
  uint64_t gfn = 0;
  for (auto _ : state) ReadBytes(iotlb, gfn++ % (Iotlb::kTranslations + 1), absl::MakeSpan(bytes));
}
BENCHMARK(BM_Miss);

enum Who : int64_t { kNobody, kIdle, kOfOtherBlocks, kOfThisBlock };

// An invalidation of a page, by what the IOTLB has.
void BM_Invalidation(benchmark::State& state) {
  FakeMemory memory(2);
  std::optional<Iotlb> iotlb;
  std::array<std::byte, 16> bytes;
  if (state.range(0) != kNobody) iotlb.emplace(memory);
  if (state.range(0) == kOfOtherBlocks) ReadBytes(*iotlb, 600, absl::MakeSpan(bytes));
  if (state.range(0) == kOfThisBlock) ReadBytes(*iotlb, 7, absl::MakeSpan(bytes));
  for (auto _ : state) {
    ScopedInvalidation invalidation(memory.notifiers(), {.range = GfnRange(Gfn(3), kOnePage)});
  }
}
BENCHMARK(BM_Invalidation)->Arg(kNobody)->Arg(kIdle)->Arg(kOfOtherBlocks)->Arg(kOfThisBlock);

}  // namespace
}  // namespace quire
