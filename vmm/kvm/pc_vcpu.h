// A virtual processor of a PC: one that an operating system runs on, with KVM's interrupt controllers in the kernel.
#ifndef QUIRE_VMM_KVM_PC_VCPU_H_
#define QUIRE_VMM_KVM_PC_VCPU_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "vmm/kvm/kvm_exit.h"
#include "vmm/kvm/kvm_stats.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/kvm/machine_check.h"
#include "vmm/kvm/vcpu_file.h"

namespace quire {

// The guest read or wrote a device's register: on the bus of ports, or at a physical address. `data` is 1, 2, 4 or 8
// bytes, to be filled in for a read; valid until the vCPU runs again.
struct DeviceAccess {
  enum class Bus : uint8_t { kPort, kMemory } bus;
  uint64_t address;
  absl::Span<std::byte> data;
  bool write;
};

// The guest gave up: a triple fault, with which a PC resets.
struct TripleFault {};

using PcExit = std::variant<DeviceAccess, TripleFault, Interrupted, MemoryFault, Death>;

// One thread at a time calls Run and Die, normally a thread of its own; any thread may call Kick and read the
// statistics.
class PcVcpu {
 public:
  // What a processor's registers are when it runs first.
  struct Start {
    enum class Mode : uint8_t {
      kLong,       // 64 bit, with the page tables and descriptors given
      kProtected,  // 32 bit, flat segments, without paging
    } mode;
    uint64_t rip, rsp, rax, rbx, rsi;
    Gpa page_tables;  // of kLong
    Gpa gdt;
    uint16_t gdt_limit;
    uint16_t code, data, task;  // selectors
  };

  // Makes processor `vcpu` of `vcpus` of `vm`, which has its chips and outlives it. All but the first wait for the
  // first to start them. Errors: those of KvmCallError.
  static absl::StatusOr<std::unique_ptr<PcVcpu>> Create(const KvmVm& vm, int vcpu, int vcpus);
  // Before the first Run of processor 0.
  absl::Status Boot(const Start& start);

  // Runs the guest until something happens that the caller has to know of; halted, it waits in here. A string
  // instruction comes out once for each of its elements. After TripleFault or Death it is not called again.
  PcExit Run();

  // The guest's kernel is told, when it runs next, that the page at `page`, which this processor has touched, is lost.
  // May be called after MemoryFault. Returns whether all other processors have to JoinMachineCheck. FailedPrecondition:
  // it cannot be told, and why, as "its kernel ...".
  absl::StatusOr<bool> RaiseMachineCheck(Gpa page);
  // Between Runs, on Run's thread, when the kernel has been told on another processor.
  absl::Status JoinMachineCheck();

  // Makes Run return Interrupted soon: VcpuFile::Kick.
  void Kick() { file_->Kick(); }
  // A death of the caller's making, with this vCPU's registers as they are. Called between Runs, on Run's thread.
  Death Die(std::string sentence) const { return file_->Die(std::move(sentence)); }
  const KvmStats* stats() const { return file_->stats(); }

 private:
  PcVcpu(std::unique_ptr<VcpuFile> file, std::optional<MachineChecks> checks)
      : file_(std::move(file)), checks_(checks) {}

  DeviceAccess PortAccess();
  DeviceAccess MemoryAccess() const;

  const std::unique_ptr<VcpuFile> file_;
  std::optional<MachineChecks> checks_;  // where KVM has them
  uint32_t elements_done_ = 0;           // of a string instruction on a port that has come out
};

}  // namespace quire

#endif  // QUIRE_VMM_KVM_PC_VCPU_H_
