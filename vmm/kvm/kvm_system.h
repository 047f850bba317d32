// The host's KVM: /dev/kvm, what it can do, and what guests get from it.
//
// Only vmm/kvm opens /dev/kvm. Source: Linux, Documentation/virt/kvm/api.rst.
#ifndef QUIRE_VMM_KVM_KVM_SYSTEM_H_
#define QUIRE_VMM_KVM_KVM_SYSTEM_H_

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "base/units.h"

namespace quire {

// A CPUID table as KVM's ioctls take it. <linux/kvm.h> has struct kvm_cpuid2 for it, which C++ lays out differently
// from C (Linux 6.1: a struct { } in it), ending in wrong ioctl numbers.
struct CpuidTable {
  static constexpr uint32_t kCapacity = 256;  // KVM_MAX_CPUID_ENTRIES: no kernel has more

  uint32_t size = 0;
  uint32_t padding = 0;
  kvm_cpuid_entry2 entries[kCapacity] = {};

  // The entry of `leaf` with index 0, or null.
  const kvm_cpuid_entry2* Find(uint32_t leaf) const;
};

// Bits of guest physical addresses that a guest with this CPUID can use with this host's paging.
int PhysicalAddressBits(const CpuidTable& cpuid);

// Move-only. Thread safe once opened: all members are const.
class KvmSystem {
 public:
  // Opens KVM and checks that it has what Quire needs.
  // Errors: FailedPrecondition, with what the user can do about it, when there is no KVM, the user may not use it, or
  // it lacks something.
  static absl::StatusOr<KvmSystem> Open(const std::string& path = "/dev/kvm");

  // The value of KVM_CHECK_EXTENSION: 0 means that KVM lacks it.
  int Capability(int capability) const;

  // What guests' CPUID may say on this host (KVM_GET_SUPPORTED_CPUID).
  const CpuidTable& supported_cpuid() const { return cpuid_; }
  int physical_address_bits() const { return PhysicalAddressBits(cpuid_); }
  // The most vCPUs that KVM gives one VM.
  int max_vcpus() const { return max_vcpus_; }
  // Size of the memory shared between KVM and the thread that runs a vCPU.
  ByteCount vcpu_run_size() const { return vcpu_run_size_; }
  int fd() const { return fd_.get(); }

 private:
  KvmSystem(UniqueFd fd, const CpuidTable& cpuid, int max_vcpus, ByteCount vcpu_run_size);

  UniqueFd fd_;
  CpuidTable cpuid_;
  int max_vcpus_;
  ByteCount vcpu_run_size_;
};

// The status of opening `path` having failed with `error` (an errno): says who may open it and how to become one of
// them.
absl::Status KvmOpenError(const std::string& path, int error);

// The status of a KVM ioctl having failed with `error` (an errno). Unavailable when the host is short of something for
// the moment (memory, descriptors), otherwise FailedPrecondition.
absl::Status KvmCallError(absl::string_view attempted, int error);

// KVM_SET_CPUID2 with the number that C programs get.
inline constexpr unsigned long kKvmSetCpuid = _IOC(_IOC_WRITE, KVMIO, 0x90, offsetof(CpuidTable, entries));

static_assert(offsetof(CpuidTable, entries) == 8 && sizeof(kvm_cpuid_entry2) == 40);

}  // namespace quire

#endif  // QUIRE_VMM_KVM_KVM_SYSTEM_H_
