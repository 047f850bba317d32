// What it costs to take one page out of a process's memory, by the number of VMs in the process: each of them is asked,
// by the host kernel's mmu notifiers, whether it maps the page. Needs /dev/kvm.
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/check.h"
#include "base/mapping.h"
#include "base/units.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/kvm/kvm_vm.h"

namespace quire {
namespace {

void BM_TakePageOut(benchmark::State& state) {
  const absl::StatusOr<KvmSystem> system = KvmSystem::Open();
  if (!system.ok()) return state.SkipWithError("this host has no KVM");
  std::vector<std::unique_ptr<KvmVm>> vms;
  for (int64_t i = 0; i < state.range(0); ++i) vms.push_back(KvmVm::Create(*system).value());
  const Mapping page =
      Mapping::Map(kOnePage.bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0).value();
  for (auto _ : state) {
    page.data()[0] = std::byte{1};
    QUIRE_CHECK(madvise(page.data(), kPageSize, MADV_DONTNEED) == 0);
  }
}
BENCHMARK(BM_TakePageOut)->Arg(0)->Arg(1)->Arg(16)->Arg(64)->Arg(256)->Arg(1000)->UseRealTime();

}  // namespace
}  // namespace quire
