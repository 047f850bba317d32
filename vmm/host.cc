#include "vmm/host.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>

#include "base/unique_fd.h"
#include "vmm/pool_probe.h"

namespace quire {
namespace {

constexpr int kSyslogReadAll = 3;      // SYSLOG_ACTION_READ_ALL of syslog(2)
constexpr int kSyslogSizeBuffer = 10;  // SYSLOG_ACTION_SIZE_BUFFER

int ErrorOf(int result) { return result < 0 ? errno : 0; }

// Fills in the features of the userfaultfd `fd`.
void AskFeatures(int fd, UserfaultfdOffer* offer) {
  uffdio_api api = {};
  api.api = UFFD_API;
  if (ioctl(fd, UFFDIO_API, &api) == 0) offer->features = api.features;
}

UniqueFd UserfaultfdFromDevice(int* error) {
  const UniqueFd device(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  *error = ErrorOf(device.get());
  if (!device.valid()) return UniqueFd();
  UniqueFd fd(ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC));
  *error = ErrorOf(fd.get());
  return fd;
}

class LinuxHost : public Host {
 public:
  std::optional<std::string> ReadFile(const std::string& path) const override {
    std::ifstream file(path);
    std::ostringstream text;
    if (!file || !(text << file.rdbuf())) return std::nullopt;
    return text.str();
  }

  bool Exists(const std::string& path) const override { return access(path.c_str(), F_OK) == 0; }

  std::string KernelLog() const override {
    const int size = klogctl(kSyslogSizeBuffer, nullptr, 0);
    if (size <= 0) return "";
    std::string log(static_cast<size_t>(size), '\0');
    const int length = klogctl(kSyslogReadAll, log.data(), size);
    log.resize(length < 0 ? 0 : static_cast<size_t>(length));
    return log;
  }

  int Cpus() const override {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  }

  int UserId() const override { return static_cast<int>(geteuid()); }

  KvmOffer ProbeKvm() const override {
    KvmOffer offer;
    const UniqueFd kvm(open("/dev/kvm", O_RDWR | O_CLOEXEC));
    offer.open_error = ErrorOf(kvm.get());
    if (!kvm.valid()) return offer;
    offer.api_version = ioctl(kvm.get(), KVM_GET_API_VERSION, 0);
    const UniqueFd vm(ioctl(kvm.get(), KVM_CREATE_VM, 0));
    offer.create_vm_error = ErrorOf(vm.get());
    return offer;
  }

  UserfaultfdOffer ProbeUserfaultfd() const override {
    UserfaultfdOffer offer;
    const UniqueFd from_syscall(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC)));
    offer.syscall_error = ErrorOf(from_syscall.get());
    const UniqueFd from_device = UserfaultfdFromDevice(&offer.device_error);
    if (offer.available()) AskFeatures(from_syscall.valid() ? from_syscall.get() : from_device.get(), &offer);
    return offer;
  }

  PoolOffer ProbePool() const override { return quire::ProbePool(); }
};

}  // namespace

const Host& RealHost() {
  static const auto* host = new LinuxHost;
  return *host;
}

}  // namespace quire
