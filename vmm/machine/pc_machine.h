// A PC guest under KVM, for operating systems: a kernel of the user's, with the devices of pc_devices.h.
//
// Its memory lies as PcRegions says, in one memslot or two of the same window. It has no workload of the project's, so
// it counts nothing: what it says on its console is all that is known of it.
#ifndef QUIRE_VMM_MACHINE_PC_MACHINE_H_
#define QUIRE_VMM_MACHINE_PC_MACHINE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/counters.h"
#include "base/units.h"
#include "guest/frames/pool.h"
#include "guest/guest_memory.h"
#include "mmu/device_memory.h"
#include "mmu/kvm_window.h"
#include "vmm/boot/boot_plan.h"
#include "vmm/boot/kernel_image.h"
#include "vmm/devices/power.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/kvm/pc_vcpu.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/pc_devices.h"
#include "vmm/machine/vm_machine.h"
#include "workloads/guest_abi.h"

namespace quire {

struct PcMachineOptions {
  std::string name;
  ByteCount memory;
  int vcpus = 1;
  const KernelImage* kernel = nullptr;
  absl::Span<const std::byte> initrd = {};
  std::string command_line = {};
  PcDeviceOptions devices = {};  // without `power` and `exit`
  KvmWindowOptions window = {};
  AnonymousBlocks anonymous_blocks = AnonymousBlocks::kWanted;  // without managed memory
};

class PcMachine final : public VmMachine {
 public:
  // How a guest came to its end by itself.
  enum class End : uint8_t { kNone, kPowerOff, kReset, kExit };

  // With `memory`, which lives in `pool`, the guest runs on managed memory; without, the host kernel has it as plain
  // anonymous memory. `kernel` and `initrd` are needed while it is made, everything else given outlives the machine.
  static absl::StatusOr<std::unique_ptr<PcMachine>> Create(const KvmSystem& system, const PcMachineOptions& options,
                                                           Pool* pool, GuestMemory* memory);

  // The plug is pulled: an operating system has no other way to end soon.
  void RequestStop() override;
  // There is none.
  void StartSweep() override {}
  void Quiesce() override { devices_->Stop(); }

  // Times that the guest's kernel was told of a lost page.
  uint64_t machine_checks() const { return machine_checks_.value(); }
  End end() const { return end_.load(std::memory_order_acquire); }
  // What the guest ended with, of kExit. Another one than 0 is an error of the guest's, which exit() says.
  uint32_t exit_status() const { return exit_status_.load(std::memory_order_relaxed); }
  PcDevices& devices() { return *devices_; }

 private:
  PcMachine(const PcMachineOptions& options, GuestMemory* memory)
      : VmMachine(options.name, options.vcpus, memory),
        regions_(PcRegions(options.memory)),
        told_elsewhere_(static_cast<size_t>(options.vcpus)) {}

  absl::Status Assemble(const KvmSystem& system, const PcMachineOptions& options);
  absl::Status AddMemslots();
  absl::Status AddDevices(const PcMachineOptions& options);
  absl::StatusOr<PcVcpu::Start> LoadKernel(const PcMachineOptions& options);
  void EndItself(End how);

  absl::Status Serve(const PcVcpu& cpu, const DeviceAccess& access);
  // A vCPU has touched a page that is lost: its kernel is told. Error: that it cannot be, for the guest to end with.
  absl::Status TellOfLostPage(int vcpu, Gfn gfn);
  void TellElsewhere(int vcpu);
  absl::Status JoinMachineCheck(int vcpu);

  absl::Status RunVcpu(int vcpu) override;
  void KickVcpus() override;
  quire_progress ReadProgressOf(int vcpu) const override;

  const GuestRegions regions_;
  std::atomic<End> end_ = End::kNone;
  std::atomic<uint32_t> exit_status_ = 0;
  std::atomic<bool> off_ = false;  // no vCPU runs any more
  // Devices go before the memory that they work with, and before the VM whose lines they raise. The VM, VmMachine's,
  // goes after all of these and before what its memslots point at.
  std::unique_ptr<DeviceMemory> device_memory_;
  std::unique_ptr<PcDevices> devices_;
  Counter machine_checks_;
  std::vector<std::unique_ptr<PcVcpu>> vcpus_;
  std::vector<std::atomic<bool>> told_elsewhere_;  // by vCPU: it has to JoinMachineCheck
};

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_PC_MACHINE_H_
