#include "vmm/accel.h"

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "vmm/host_facts.h"

namespace quire {
namespace {

constexpr int kKvmApiVersion = 12;

bool CpuVirtualizes(const Host& host) { return HasCpuFlag(host, "vmx") || HasCpuFlag(host, "svm"); }

std::string HowToGetVirtualization(const Host& host) {
  if (CpuVirtualizes(host)) {
    return absl::StrCat("load the module as root with `modprobe ", HasCpuFlag(host, "vmx") ? "kvm_intel" : "kvm_amd",
                        "`");
  }
  if (HasCpuFlag(host, "hypervisor")) return "enable nested virtualization for this virtual machine where it is hosted";
  return "enable virtualization (VT-x or AMD-V) in the firmware setup";
}

Obstacle NoKvmDevice(const Host& host) {
  if (host.Exists("/sys/class/misc/kvm")) {
    return {"the kernel has KVM, but /dev/kvm does not exist here",
            "pass the device to the container (--device=/dev/kvm), or create it with `mknod /dev/kvm c 10 232`"};
  }
  const std::string complaint = KvmComplaint(host);
  const std::string fix = HowToGetVirtualization(host);
  if (!complaint.empty()) {
    return {"/dev/kvm does not exist", absl::StrCat("meet what the kernel asks for there, or ", fix),
            absl::StrCat("the kernel says \"", complaint, "\"")};
  }
  if (CpuVirtualizes(host)) return {"/dev/kvm does not exist, for the KVM module is not loaded", fix};
  return {"/dev/kvm does not exist and the CPU shows neither VMX nor SVM", fix};
}

Obstacle KvmNotOpened(int error, const Host& host) {
  switch (error) {
    case ENOENT:
      return NoKvmDevice(host);
    case EACCES:
    case EPERM:
      return {"/dev/kvm may not be opened by this user",
              "join the group that owns it (`stat -c %G /dev/kvm`; if that is root, become root) and log in again"};
    default:
      return {absl::StrCat("/dev/kvm cannot be opened (", std::strerror(error), ")"), HowToGetVirtualization(host)};
  }
}

std::string HowToGetUserfaultfd(const UserfaultfdOffer& offer, const Host& host) {
  if (offer.syscall_error == ENOSYS) return "run a kernel with CONFIG_USERFAULTFD";
  if (host.UserId() == 0) return "allow the userfaultfd system call in the container's seccomp profile";
  return "run as root, or as root do `sysctl vm.unprivileged_userfaultfd=1`";
}

// The first of what KVM guests need that is not there.
std::optional<Obstacle> GuestsObstacle(const AccelRequest& request, const Host& host) {
  if (std::optional<Obstacle> obstacle = KvmObstacle(host)) return obstacle;
  if (request.engine == Engine::kQuire) return UserfaultfdObstacle(host);
  return std::nullopt;
}

}  // namespace

std::string FullText(const Obstacle& obstacle) {
  return obstacle.detail.empty() ? obstacle.found : absl::StrCat(obstacle.found, " (", obstacle.detail, ")");
}

std::optional<Obstacle> KvmObstacle(const Host& host) {
  const KvmOffer offer = host.ProbeKvm();
  if (offer.open_error != 0) return KvmNotOpened(offer.open_error, host);
  if (offer.api_version != kKvmApiVersion) {
    return Obstacle{
        absl::StrCat("/dev/kvm speaks version ", offer.api_version, " of its interface, not ", kKvmApiVersion),
        "run a kernel with a current KVM"};
  }
  if (offer.create_vm_error == 0) return std::nullopt;
  return Obstacle{absl::StrCat("/dev/kvm creates no virtual machine (", std::strerror(offer.create_vm_error), ")"),
                  "stop other hypervisors on this host, and see what the kernel log says about KVM"};
}

std::optional<Obstacle> UserfaultfdObstacle(const Host& host) {
  const UserfaultfdOffer offer = host.ProbeUserfaultfd();
  if (!offer.available()) {
    return Obstacle{absl::StrCat("userfaultfd does not serve KVM's faults (", std::strerror(offer.syscall_error), ")"),
                    HowToGetUserfaultfd(offer, host)};
  }
  constexpr uint64_t kNeeded = kUffdMissingShmem | kUffdMinorShmem;
  if ((offer.features & kNeeded) == kNeeded) return std::nullopt;
  return Obstacle{"userfaultfd has no MISSING and MINOR faults for shared memory", "run Linux 5.14 or later"};
}

// "Y" or "1" in the module's parameter: one page table of the hardware for the guest's memory.
std::optional<bool> HasNestedPaging(const Host& host) {
  for (const char* path : {"/sys/module/kvm_intel/parameters/ept", "/sys/module/kvm_amd/parameters/npt"}) {
    const std::string value = host.ReadFile(path).value_or("");
    if (!value.empty()) return value[0] == 'Y' || value[0] == '1';
  }
  if (host.Exists("/sys/module/kvm_pvm")) return false;
  return std::nullopt;
}

std::optional<Obstacle> NestedPagingObstacle(const Host& host) {
  if (HasNestedPaging(host).value_or(true)) return std::nullopt;
  return Obstacle{"KVM has no EPT or NPT here and uses shadow page tables",
                  "use a CPU and a host with EPT or NPT, and load the module with ept=1 or npt=1"};
}

absl::StatusOr<AccelDecision> DecideAccel(const AccelRequest& request, const Host& host) {
  if (request.accel == Accel::kSoft) return AccelDecision{Accel::kSoft, "it was asked for"};
  const std::optional<Obstacle> obstacle = GuestsObstacle(request, host);
  if (!obstacle) {
    return AccelDecision{Accel::kKvm, request.accel == Accel::kKvm ? "it was asked for" : "KVM works here"};
  }
  if (request.accel == Accel::kAuto && request.own_program.empty()) return AccelDecision{Accel::kSoft, obstacle->found};
  const bool own = !request.own_program.empty();
  return absl::FailedPreconditionError(absl::StrCat(own ? request.own_program : "--accel=kvm", " needs KVM, but ",
                                                    FullText(*obstacle), ": ", obstacle->fix,
                                                    own ? "" : ", or use --accel=soft"));
}

}  // namespace quire
