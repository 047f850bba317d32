#include "vmm/kvm/kvm_system.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quire {
namespace {

// KVM_GET_SUPPORTED_CPUID with the number that C programs get.
constexpr unsigned long kKvmGetSupportedCpuid =
    _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, offsetof(CpuidTable, entries));

struct Requirement {
  int capability;
  absl::string_view name;
};

// In KVM on x86-64 since Linux 4.11 at the latest.
constexpr Requirement kRequirements[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_SYNC_MMU, "KVM_CAP_SYNC_MMU"},  // follows changes of the host's page tables
    {KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
};

constexpr absl::string_view kWithoutKvm = "or run without KVM: --accel=soft";

std::string GroupOf(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0 || (status.st_mode & S_IWGRP) == 0) return "";
  struct group group, *found = nullptr;
  char buffer[4096];
  if (getgrgid_r(status.st_gid, &group, buffer, sizeof(buffer), &found) != 0 || found == nullptr) return "";
  return found->gr_name;
}

std::string HowToGetPermission(const std::string& path) {
  const std::string group = GroupOf(path);
  if (group.empty() || group == "root")
    return absl::StrCat("run as root or ask the administrator for access to ", path);
  return absl::StrCat("join the group that may use it (sudo usermod -aG ", group, " $USER, then log in again)");
}

absl::Status CheckCapabilities(int fd, const std::string& path) {
  const int version = ioctl(fd, KVM_GET_API_VERSION, 0);
  if (version < 0) return absl::FailedPreconditionError(absl::StrCat(path, " is not KVM: ", std::strerror(errno)));
  if (version != KVM_API_VERSION) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " speaks version ", version, " of the KVM interface, expected ", KVM_API_VERSION));
  }
  for (const Requirement& requirement : kRequirements) {
    if (ioctl(fd, KVM_CHECK_EXTENSION, requirement.capability) <= 0) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, " lacks ", requirement.name, ": a Linux kernel of 4.11 or later has it, ", kWithoutKvm));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<CpuidTable> ReadSupportedCpuid(int fd) {
  CpuidTable table;
  table.size = CpuidTable::kCapacity;
  if (ioctl(fd, kKvmGetSupportedCpuid, &table) != 0) {
    return KvmCallError("asking KVM which CPUID it supports", errno);
  }
  return table;
}

}  // namespace

const kvm_cpuid_entry2* CpuidTable::Find(uint32_t leaf) const {
  const kvm_cpuid_entry2* const end = entries + size;
  const auto* const found =
      std::find_if(entries, end, [leaf](const kvm_cpuid_entry2& e) { return e.function == leaf && e.index == 0; });
  return found == end ? nullptr : found;
}

// Leaf 0x80000008: bits 7 to 0 say how wide the processor's physical addresses are, and bits 23 to 16, if not zero, how
// many of those a guest can use (AMD APM volume 3, E.4.7; KVM sets them where nested paging has only four levels).
int PhysicalAddressBits(const CpuidTable& cpuid) {
  const kvm_cpuid_entry2* leaf = cpuid.Find(0x8000'0008);
  if (leaf == nullptr || (leaf->eax & 0xff) == 0) return 36;  // the least of any processor with long mode
  const int bits = leaf->eax & 0xff, of_guests = leaf->eax >> 16 & 0xff;
  return of_guests == 0 ? bits : std::min(bits, of_guests);
}

absl::Status KvmOpenError(const std::string& path, int error) {
  const std::string what = absl::StrCat("cannot open ", path, ": ", std::strerror(error));
  switch (error) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return absl::FailedPreconditionError(
          absl::StrCat(what, "; load KVM (sudo modprobe kvm_intel, or kvm_amd), enable virtualization in the firmware ",
                       "or, inside a virtual machine, nested virtualization, ", kWithoutKvm));
    case EACCES:
    case EPERM:
      return absl::FailedPreconditionError(absl::StrCat(what, "; ", HowToGetPermission(path), ", ", kWithoutKvm));
    default:
      return KvmCallError(absl::StrCat("opening ", path), error);
  }
}

absl::Status KvmCallError(absl::string_view attempted, int error) {
  const std::string message = absl::StrCat(attempted, " failed: ", std::strerror(error));
  switch (error) {
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case EBUSY:
    case EAGAIN:
    case ENOSPC:
      return absl::UnavailableError(message);
    default:
      return absl::FailedPreconditionError(message);
  }
}

KvmSystem::KvmSystem(UniqueFd fd, const CpuidTable& cpuid, int max_vcpus, ByteCount vcpu_run_size)
    : fd_(std::move(fd)), cpuid_(cpuid), max_vcpus_(max_vcpus), vcpu_run_size_(vcpu_run_size) {}

absl::StatusOr<KvmSystem> KvmSystem::Open(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return KvmOpenError(path, errno);
  if (absl::Status status = CheckCapabilities(fd.get(), path); !status.ok()) return status;
  absl::StatusOr<CpuidTable> cpuid = ReadSupportedCpuid(fd.get());
  if (!cpuid.ok()) return cpuid.status();
  const int run_size = ioctl(fd.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_size < 0) return KvmCallError("asking KVM for the size of a vCPU's shared memory", errno);
  // KVM_CAP_NR_VCPUS is what is recommended; both are at least 1.
  const int max_vcpus = std::max({ioctl(fd.get(), KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS),
                                  ioctl(fd.get(), KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS), 1});
  return KvmSystem(std::move(fd), *cpuid, max_vcpus, ByteCount::Bytes(run_size));
}

int KvmSystem::Capability(int capability) const {
  return std::max(ioctl(fd_.get(), KVM_CHECK_EXTENSION, capability), 0);
}

}  // namespace quire
