#include "vmm/machine/vm_machine.h"

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace quire {
namespace {

// How often, a millisecond apart, a vCPU may find a page of its memory momentarily impossible to translate.
constexpr int kMostMemoryFaults = 1000;

}  // namespace

VmMachine::~VmMachine() = default;

absl::Status VmMachine::MapMemory(ByteCount size, AnonymousBlocks anonymous_blocks, const KvmWindowOptions& window,
                                  Pool* pool) {
  if (memory() == nullptr) return MapAnonymous(size, anonymous_blocks);
  absl::StatusOr<std::unique_ptr<KvmWindow>> made =
      KvmWindow::Create(*memory(), pool->file().fd(), memory()->reservation(), window, memory()->Views());
  if (!made.ok()) return made.status();
  window_ = *std::move(made);
  return absl::OkStatus();
}

absl::Status VmMachine::CreateVm(const KvmSystem& system) {
  absl::StatusOr<std::unique_ptr<KvmVm>> vm = KvmVm::Create(system);
  if (!vm.ok()) return vm.status();
  vm_ = *std::move(vm);
  return absl::OkStatus();
}

bool VmMachine::MayTryAgain(int faults) {
  if (faults >= kMostMemoryFaults) return false;
  absl::SleepFor(absl::Milliseconds(1));
  return true;
}

absl::Status VmMachine::Died(const Death& death) {
  return absl::AbortedError(absl::StrCat(death.sentence, "\n", death.registers));
}

uint64_t VmMachine::KvmStatistic(absl::string_view name) const {
  if (vm_ == nullptr || vm_->stats() == nullptr) return 0;
  return vm_->stats()->Read(name).value_or(0);
}

}  // namespace quire
