#include "absl/status/status.h"
#include "base/units.h"
#include "benchmark/benchmark.h"
#include "notifiers/mmu_notifier.h"
#include "notifiers/notifier_chain.h"

namespace quire {
namespace {

class IdleNotifier final : public MmuNotifier {
 public:
  absl::Status InvalidateRangeStart(const Invalidation&) override { return absl::OkStatus(); }
  void InvalidateRangeEnd(const Invalidation&) override {}
};

// What the chain itself adds to an invalidation with one subscriber; with two threads, what they do to each other.
void BM_Invalidation(benchmark::State& state) {
  static NotifierChain* const chain = [] {
    static IdleNotifier subscriber;
    auto* c = new NotifierChain;
    c->Register(&subscriber);
    return c;
  }();
  for (auto _ : state) ScopedInvalidation invalidation(*chain, {.range = GfnRange(Gfn(0), kOnePage)});
}
BENCHMARK(BM_Invalidation)->ThreadRange(1, 2);

}  // namespace
}  // namespace quire
