// A guest under KVM that runs a program of guest_abi.h.
//
//   guest physical memory    0 .. memory    the guest's own: its window (or anonymous memory, engine kernel)
//                            above          wired memory and aux regions, each in a memslot of its own (wired_memory.h)
#ifndef QUIRE_VMM_MACHINE_KVM_MACHINE_H_
#define QUIRE_VMM_MACHINE_KVM_MACHINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/mapping.h"
#include "base/units.h"
#include "guest/frames/pool.h"
#include "guest/guest_memory.h"
#include "mmu/kvm_window.h"
#include "vmm/kvm/elf_loader.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/kvm/kvm_vcpu.h"
#include "vmm/kvm/wired_memory.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/vm_machine.h"
#include "vmm/machine/wired_region.h"
#include "vmm/machine/work.h"

namespace quire {

class KvmMachine;

struct KvmMachineOptions {
  std::string name;
  ByteCount memory;
  int vcpus = 1;
  const ElfImage* program = nullptr;
  // What the project's own payload is to do; null for a user's program.
  const Work* work = nullptr;
  uint64_t seed = 0;
  KvmWindowOptions window = {};
  AnonymousBlocks anonymous_blocks = AnonymousBlocks::kWanted;  // without managed memory
  // vCPUs end at the guest's freeze point, to be cloned.
  bool freezes = false;
  // Goes on where this machine, which has become a template, ended. It was made with the same options but for the name
  // and the console, and is needed while the clone is made.
  const KvmMachine* clone_of = nullptr;
  uint64_t clone = 0;  // its number, from 1
  // Bytes that the guest writes to its console; called on vCPU threads.
  std::function<void(absl::string_view)> console;
};

class KvmMachine final : public VmMachine {
 public:
  // With `memory`, which lives in `pool`, the guest runs on managed memory; without, the host kernel has it as plain
  // anonymous memory. Everything given outlives the machine.
  static absl::StatusOr<std::unique_ptr<KvmMachine>> Create(const KvmSystem& system, const KvmMachineOptions& options,
                                                            Pool* pool, GuestMemory* memory);
  ~KvmMachine() override;

  void RequestStop() override { wired_->RequestStop(); }
  void StartSweep() override { SetGo(scratch_.bytes()); }
  void AddLatency(OperationLatency& sum) const override;

  // At the freeze point, and joined: gives up its VM and its window. What remains is what clones begin with; its
  // memory can be frozen.
  void BecomeTemplate();

 private:
  KvmMachine(const KvmMachineOptions& options, GuestMemory* memory);

  absl::Status Assemble(const KvmSystem& system, const KvmMachineOptions& options, Pool* pool);
  // Program and tables, and the workload's area: fresh, or the template's.
  void LoadWired(const KvmMachineOptions& options);
  void LoadScratch(const KvmMachineOptions& options);
  absl::Status AddMemslots(const KvmMachineOptions& options);

  absl::Status RunVcpu(int vcpu) override;
  void KickVcpus() override;
  quire_progress ReadProgressOf(int vcpu) const override { return wired_->ReadProgress(vcpu); }
  void AskToRest(uint32_t percent) override { wired_->AskToRest(percent); }
  absl::Status TakeAdvice(KvmVcpu& vcpu, uint32_t value);
  absl::Status TakeWireRequest(KvmVcpu& vcpu, uint32_t value);
  // The vCPU's thread goes on when this is OK and `done` is false.
  absl::Status Handle(KvmVcpu& vcpu, int number, const VcpuExit& exit, bool& done);
  absl::Status StopAtFreezePoint(KvmVcpu& vcpu, int number, bool& done);

  const std::function<void(absl::string_view)> console_;
  const bool freezes_;
  const bool has_work_;
  std::vector<VcpuState> frozen_;  // by vCPU: where it ended, each written by its thread
  std::vector<Rest> rests_;        // likewise, what it owes
  WiredRegion wired_region_;
  WiredRegion scratch_;
  std::optional<WiredMemory> wired_;
  std::vector<std::unique_ptr<KvmVcpu>> vcpus_;
};

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_KVM_MACHINE_H_
