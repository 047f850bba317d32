// What it costs to reclaim a page in a family of clones, by the family's size: a page of the template that all of them
// map, and one that a clone has for itself. Each clone has a software EPT and has written 100 pages of its own.
#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <vector>

#include "base/check.h"
#include "base/units.h"
#include "guest/guest_memory.h"
#include "guest/memory_manager.h"
#include "mmu/ept.h"

namespace quire {
namespace {

constexpr PageCount kSize = PageCount::OfBlocks(2);
constexpr Gfn kShared(3);            // in the first block, of which nothing else is touched
constexpr Gfn kPrivate(512 + 7);     // in the second, where clones write
constexpr uint64_t kOwnPages = 100;  // of each clone, from kPrivate on

class Family {
 public:
  explicit Family(size_t clones) {
    manager_ = MemoryManager::Create({.limit = PageCount::OfBlocks(512),
                                      .reservations = {},
                                      .use_memfd = true,
                                      .granularity = {.blocks = false}})
                   .value();
    template_ = manager_->AddGuest(kSize, Placement::kArena).value();
    {
      Ept ept(*template_);
      EptVcpu vcpu(ept);
      Touch(vcpu, kShared, Access::kWrite);
      Touch(vcpu, kPrivate, Access::kWrite);
    }
    template_->Freeze();
    for (size_t i = 0; i < clones; ++i) {
      clones_.push_back({.memory = manager_->Clone(*template_).value(), .ept = nullptr, .vcpu = nullptr});
      clones_[i].ept = std::make_unique<Ept>(*clones_[i].memory);
      clones_[i].vcpu = std::make_unique<EptVcpu>(*clones_[i].ept);
      for (uint64_t page = 0; page < kOwnPages; ++page) {
        Touch(*clones_[i].vcpu, kPrivate + PageCount(page), Access::kWrite);
      }
    }
  }
  ~Family() {
    for (Clone& clone : clones_) {
      clone.vcpu.reset();
      clone.ept.reset();
      manager_->RemoveGuest(clone.memory);
    }
    manager_->RemoveGuest(template_);
  }

  void ReadSharedByAll() {
    for (Clone& clone : clones_) Touch(*clone.vcpu, kShared, Access::kRead);
    QUIRE_CHECK(template_->InheritorsOf(kShared) == clones_.size());
  }
  GuestMemory& of_template() { return *template_; }
  GuestMemory& of_clone() { return *clones_.front().memory; }
  void TouchOwn() { Touch(*clones_.front().vcpu, kPrivate, Access::kWrite); }
  // Out, by the second look: the first finds that it was used.
  static void TakeOut(GuestMemory& memory, Gfn gfn) {
    Block& block = memory.BlockAt(BlockOf(gfn));
    while (memory.EntryOf(gfn).state() == PageState::kResident) memory.Age(block);
  }

 private:
  struct Clone {
    GuestMemory* memory;
    std::unique_ptr<Ept> ept;
    std::unique_ptr<EptVcpu> vcpu;
  };

  static void Touch(EptVcpu& vcpu, Gfn gfn, Access access) {
    QUIRE_CHECK(vcpu.WithPage(gfn, access,
                              [&](std::byte* page) {
                                if (access == Access::kWrite)
                                  std::memset(page, static_cast<int>(gfn.value() % 255 + 1), 64);
                              })
                    .ok());
  }

  std::unique_ptr<MemoryManager> manager_;
  GuestMemory* template_ = nullptr;
  std::vector<Clone> clones_;
};

void BM_TakeOutPageThatAllClonesMap(benchmark::State& state) {
  Family family(static_cast<size_t>(state.range(0)));
  for (auto _ : state) {
    state.PauseTiming();
    family.ReadSharedByAll();
    state.ResumeTiming();
    Family::TakeOut(family.of_template(), kShared);
  }
}
BENCHMARK(BM_TakeOutPageThatAllClonesMap)->Arg(1)->Arg(10)->Arg(100)->Arg(1000)->UseRealTime();

void BM_TakeOutPageThatACloneHasForItself(benchmark::State& state) {
  Family family(static_cast<size_t>(state.range(0)));
  for (auto _ : state) {
    state.PauseTiming();
    family.TouchOwn();
    state.ResumeTiming();
    Family::TakeOut(family.of_clone(), kPrivate);
  }
}
BENCHMARK(BM_TakeOutPageThatACloneHasForItself)->Arg(1)->Arg(10)->Arg(100)->Arg(1000)->UseRealTime();

}  // namespace
}  // namespace quire
