#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "benchmark/benchmark.h"
#include "mmu/ept.h"
#include "mmu/fake_memory.h"

namespace quire {
namespace {

uint64_t ReadWord(EptVcpu& vcpu, uint64_t gfn) {
  uint64_t word = 0;
  const auto use = [&](std::byte* page) { word = *FakeMemory::Word(page); };
  QUIRE_CHECK(vcpu.WithPage(Gfn(gfn), Access::kRead, use).ok());
  return word;
}

// WithPage of a page in the TLB.
void BM_TlbHit(benchmark::State& state) {
  FakeMemory memory(1);
  Ept ept(memory);
  EptVcpu vcpu(ept);
  uint64_t gfn = 0;
  for (auto _ : state) benchmark::DoNotOptimize(ReadWord(vcpu, gfn++ % 8));
}
BENCHMARK(BM_TlbHit);

// WithPage of a page that is mapped but whose slot in the TLB another page has taken.
void BM_Walk(benchmark::State& state) {
  FakeMemory memory(2);
  Ept ept(memory);
  EptVcpu vcpu(ept);
  uint64_t i = 0;
  for (auto _ : state) benchmark::DoNotOptimize(ReadWord(vcpu, i++ % 2 * 512));
}
BENCHMARK(BM_Walk);

// The first access of a page after its invalidation, with a handler that does next to nothing; and the invalidation.
void BM_FaultAndInvalidation(benchmark::State& state) {
  FakeMemory memory(1);
  Ept ept(memory);
  EptVcpu vcpu(ept);
  for (auto _ : state) {
    benchmark::DoNotOptimize(ReadWord(vcpu, 3));
    ScopedInvalidation invalidation(memory.notifiers(), {.range = GfnRange(Gfn(3), kOnePage)});
  }
}
BENCHMARK(BM_FaultAndInvalidation);

// The same for a block: one fault installs it, one invalidation drops it. 0: as a 2 MiB leaf; 1: as 512 of 4 KiB.
void BM_BlockFaultAndInvalidation(benchmark::State& state) {
  FakeMemory memory(1);
  if (state.range(0) == 1) memory.Move(GfnRange(Gfn(511), kOnePage), 1);
  memory.set_around(kOneBlock);
  Ept ept(memory);
  EptVcpu vcpu(ept);
  for (auto _ : state) {
    benchmark::DoNotOptimize(ReadWord(vcpu, 3));
    ScopedInvalidation invalidation(memory.notifiers(), {.range = PagesOf(BlockNumber(0))});
  }
}
BENCHMARK(BM_BlockFaultAndInvalidation)->Arg(0)->Arg(1);

}  // namespace
}  // namespace quire
