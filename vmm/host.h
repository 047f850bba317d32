// What the command line asks of the machine it runs on, behind a seam so that tests can be any machine.
#ifndef QUIRE_VMM_HOST_H_
#define QUIRE_VMM_HOST_H_

#include <cstdint>
#include <optional>
#include <string>

#include "vmm/pool_probe.h"

namespace quire {

// Errors are errno values, 0 where the step worked.
struct KvmOffer {
  int open_error = 0;       // of /dev/kvm
  int api_version = 0;      // 12 since Linux 2.6.22
  int create_vm_error = 0;  // of KVM_CREATE_VM
};

struct UserfaultfdOffer {
  int syscall_error = 0;  // of userfaultfd(2), for faults of the kernel too: KVM's are
  int device_error = 0;   // of /dev/userfaultfd
  uint64_t features = 0;  // UFFD_FEATURE_*, where one of the two worked

  bool available() const { return syscall_error == 0 || device_error == 0; }
};

class Host {
 public:
  virtual ~Host() = default;

  // A small text file; nothing where it is not there or not readable.
  virtual std::optional<std::string> ReadFile(const std::string& path) const = 0;
  virtual bool Exists(const std::string& path) const = 0;
  // The kernel's messages; empty where they may not be read.
  virtual std::string KernelLog() const = 0;
  // CPUs that this process may run on.
  virtual int Cpus() const = 0;
  virtual int UserId() const = 0;
  virtual KvmOffer ProbeKvm() const = 0;
  virtual UserfaultfdOffer ProbeUserfaultfd() const = 0;
  // May fork: call before threads are started.
  virtual PoolOffer ProbePool() const = 0;
};

// The machine that the program runs on. Lives as long as the program.
const Host& RealHost();

}  // namespace quire

#endif  // QUIRE_VMM_HOST_H_
