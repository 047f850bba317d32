#include "mmu/userfaultfd.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)  // Linux 5.19
#endif
#ifndef UFFDIO_CONTINUE_MODE_WP
#define UFFDIO_CONTINUE_MODE_WP (1ull << 1)  // Linux 6.4
#endif

namespace quire {
namespace {

constexpr uint64_t kFeatures = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM;
constexpr uint64_t kWriteFeatures = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;

UniqueFd Open() {
  const int flags = O_CLOEXEC | O_NONBLOCK;
  UniqueFd fd(static_cast<int>(syscall(SYS_userfaultfd, flags)));
  if (fd.valid()) return fd;
  // Whoever may open the device may have faults of the kernel reported, whatever unprivileged_userfaultfd says.
  const UniqueFd device(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (!device.valid()) return fd;
  return UniqueFd(ioctl(device.get(), USERFAULTFD_IOC_NEW, flags));
}

// May be asked again when it has failed.
bool Enable(int fd, uint64_t features) {
  uffdio_api api = {};
  api.api = UFFD_API;
  api.features = features;
  return ioctl(fd, UFFDIO_API, &api) == 0;
}

uffdio_range ToKernel(HvaRange range) { return {.start = range.begin.value(), .len = range.size.in_bytes()}; }

// Asks for a page that nobody registered: a mode that the kernel does not know is an error before that one is.
bool KnowsProtectedContinue(int fd) {
  uffdio_continue request = {};
  // Not any address will do: what lies below vm.mmap_min_addr is the same error as a mode that is not known.
  request.range = {.start = reinterpret_cast<uint64_t>(&request) & ~(kPageSize - 1), .len = kPageSize};
  request.mode = UFFDIO_CONTINUE_MODE_DONTWAKE | UFFDIO_CONTINUE_MODE_WP;
  return ioctl(fd, UFFDIO_CONTINUE, &request) != 0 && errno != EINVAL;
}

}  // namespace

absl::StatusOr<Userfaultfd> Userfaultfd::Create() {
  UniqueFd fd = Open();
  if (!fd.valid()) {
    return absl::FailedPreconditionError(
        absl::StrCat("this process may not use userfaultfd (", std::strerror(errno),
                     "): run it as root, or give it access to /dev/userfaultfd, or set vm.unprivileged_userfaultfd=1"));
  }
  const bool can_write_protect = Enable(fd.get(), kFeatures | kWriteFeatures);
  if (!can_write_protect && !Enable(fd.get(), kFeatures)) {
    return absl::FailedPreconditionError(
        "the kernel's userfaultfd has no minor faults on shared memory: Linux 5.14 or newer is needed");
  }
  const bool can_continue_protected = can_write_protect && KnowsProtectedContinue(fd.get());
  return Userfaultfd(std::move(fd), can_write_protect, can_continue_protected);
}

absl::Status Userfaultfd::Register(HvaRange range, Reports reports) {
  uffdio_register request = {};
  request.range = ToKernel(range);
  request.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR;
  if (reports == Reports::kTouchesAndWrites) request.mode |= UFFDIO_REGISTER_MODE_WP;
  if (ioctl(fd_.get(), UFFDIO_REGISTER, &request) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("register ", range.size.in_bytes(), " bytes with userfaultfd"));
}

bool Userfaultfd::Read(std::vector<Fault>& faults) {
  uffd_msg messages[16];
  const ssize_t bytes = read(fd_.get(), messages, sizeof messages);
  if (bytes <= 0) return false;
  for (size_t i = 0; i < static_cast<size_t>(bytes) / sizeof messages[0]; ++i) {
    if (messages[i].event != UFFD_EVENT_PAGEFAULT) continue;
    const auto& fault = messages[i].arg.pagefault;
    faults.push_back({.address = Hva(fault.address & ~(kPageSize - 1)),
                      .write = (fault.flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP)) != 0});
  }
  return true;
}

absl::StatusOr<bool> Userfaultfd::Map(HvaRange range, uint64_t mode) {
  uint64_t begin = range.begin.value();
  const uint64_t end = begin + range.size.in_bytes();
  bool skipped = false;
  while (begin < end) {
    uffdio_continue request = {};
    request.range = {.start = begin, .len = end - begin};
    request.mode = mode;
    if (ioctl(fd_.get(), UFFDIO_CONTINUE, &request) == 0) break;
    // Pages mapped before the one that stopped it have been mapped and woken; `mapped` counts their bytes.
    if (request.mapped > 0) {
      begin += static_cast<uint64_t>(request.mapped);
    } else if (errno == EEXIST) {
      begin += kPageSize;
      skipped = true;
    } else if (errno == EAGAIN) {
      return absl::UnavailableError("the address space is changing");
    } else {
      return absl::InternalError(absl::StrCat("UFFDIO_CONTINUE of ", end - begin, " bytes: ", std::strerror(errno)));
    }
  }
  return skipped;
}

absl::Status Userfaultfd::Continue(HvaRange range) {
  const absl::StatusOr<bool> skipped = Map(range, 0);
  if (!skipped.ok()) return skipped.status();
  // A page that was mapped already wakes nobody, and somebody may have begun to wait for it just before it was.
  if (*skipped) Wake(range);
  return absl::OkStatus();
}

absl::Status Userfaultfd::ContinueAsleep(HvaRange range) { return Map(range, UFFDIO_CONTINUE_MODE_DONTWAKE).status(); }

absl::Status Userfaultfd::ContinueProtected(HvaRange range) {
  return Map(range, UFFDIO_CONTINUE_MODE_DONTWAKE | UFFDIO_CONTINUE_MODE_WP).status();
}

absl::Status Userfaultfd::WriteProtect(HvaRange range) {
  uffdio_writeprotect request = {};
  request.range = ToKernel(range);
  request.mode = UFFDIO_WRITEPROTECT_MODE_WP;
  if (ioctl(fd_.get(), UFFDIO_WRITEPROTECT, &request) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("write-protect ", range.size.in_bytes(), " bytes"));
}

void Userfaultfd::Wake(HvaRange range) {
  uffdio_range request = ToKernel(range);
  (void)ioctl(fd_.get(), UFFDIO_WAKE, &request);
}

}  // namespace quire
