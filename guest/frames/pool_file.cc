#include "guest/frames/pool_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace quire {
namespace {

// How often a hole is punched inside a folio that does not split, before it is left for later.
constexpr int kPunchTries = 4;

// Where the child mounts its tmpfs: any directory will do, the mount is seen by the child alone.
constexpr char kMountPoint[] = "/tmp";

// What the child needs, made before it is forked.
struct MountPlan {
  bool privileged = true;
  std::string options;
  std::string options_without_noswap;
  // The user and group of this process, as root of a user namespace of its own: user_namespaces(7).
  std::string user_map = absl::StrCat("0 ", geteuid(), " 1");
  std::string group_map = absl::StrCat("0 ", getegid(), " 1");
};

bool WriteTo(const char* path, const std::string& text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  return fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

// Without a map this process's user does not exist in its new namespace, and may not create a file there (EOVERFLOW).
bool EnterNamespaces(const MountPlan& plan) {
  if (plan.privileged) return unshare(CLONE_NEWNS) == 0;
  return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 && WriteTo("/proc/self/uid_map", plan.user_map) &&
         WriteTo("/proc/self/setgroups", "deny") && WriteTo("/proc/self/gid_map", plan.group_map);
}

// What the child does; only system calls, for it may have been forked from a process with threads. Returns the file or
// -1.
int MountAndOpen(const MountPlan& plan) {
  if (!EnterNamespaces(plan)) return -1;
  if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return -1;
  const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  if (mount("tmpfs", kMountPoint, "tmpfs", flags, plan.options.c_str()) != 0 &&
      mount("tmpfs", kMountPoint, "tmpfs", flags, plan.options_without_noswap.c_str()) != 0) {
    return -1;
  }
  return open(kMountPoint, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

// One byte and a file descriptor beside it, as unix(7) wants them.
struct FdMessage {
  FdMessage() {
    header.msg_iov = &io;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
  }
  char byte = 0;
  iovec io = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header = {};
};

void SendFd(int socket, int fd) {
  FdMessage message;
  cmsghdr* const c = CMSG_FIRSTHDR(&message.header);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  (void)sendmsg(socket, &message.header, 0);
}

UniqueFd ReceiveFd(int socket) {
  FdMessage message;
  if (recvmsg(socket, &message.header, MSG_CMSG_CLOEXEC) <= 0) return UniqueFd();
  const cmsghdr* const c = CMSG_FIRSTHDR(&message.header);
  if (c == nullptr || c->cmsg_type != SCM_RIGHTS) return UniqueFd();
  int fd;
  std::memcpy(&fd, CMSG_DATA(c), sizeof fd);
  return UniqueFd(fd);
}

// The filesystem's limit is a loose net below Budget's, for the host kernel counts more than is charged here while
// khugepaged is at work: it charges for the holes of a block before it finds that a window forbids to fill them, and
// a 2 MiB page counts before it has found room (seen on Linux 6.12).
UniqueFd OpenOnPrivateTmpfs(PageCount limit, bool privileged) {
  const std::string options = absl::StrCat("huge=advise,mode=0700,size=", PoolFile::kRoom * limit.in_bytes());
  const MountPlan plan = {privileged, absl::StrCat(options, ",noswap"), options};
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) return UniqueFd();
  UniqueFd parent_end(sockets[0]);
  UniqueFd child_end(sockets[1]);
  const pid_t child = fork();
  if (child == 0) {
    const int fd = MountAndOpen(plan);
    if (fd >= 0) SendFd(child_end.get(), fd);
    _exit(0);
  }
  child_end.reset();  // so that a child that dies without sending ends the read
  if (child < 0) return UniqueFd();
  UniqueFd file = ReceiveFd(parent_end.get());
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  return file;
}

UniqueFd OpenTmpfs(PageCount limit) {
  UniqueFd file = OpenOnPrivateTmpfs(limit, /*privileged=*/true);
  if (!file.valid()) file = OpenOnPrivateTmpfs(limit, /*privileged=*/false);
  return file;
}

bool KernelIsAtLeast(int major, int minor) {
  utsname name;
  int has_major = 0, has_minor = 0;
  if (uname(&name) != 0 || std::sscanf(name.release, "%d.%d", &has_major, &has_minor) != 2) return false;
  return has_major > major || (has_major == major && has_minor >= minor);
}

absl::StatusOr<Mapping> MapWhole(int fd, PageCount size) {
  // 2 MiB aligned, so that a block of the file is a block of the address space and one page-table entry can map it.
  absl::StatusOr<Mapping> mapping = Mapping::MapAligned(size.bytes(), ByteCount::Bytes(kBlockSize),
                                                        PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  // A child of fork() would keep frames mapped that the manager believes free.
  if (mapping.ok()) madvise(mapping->data(), size.in_bytes(), MADV_DONTFORK);
  return mapping;
}

}  // namespace

absl::StatusOr<PoolFile> PoolFile::Create(const PoolFileOptions& options) {
  QUIRE_CHECK(options.arena <= options.size);
  UniqueFd fd = options.use_memfd ? UniqueFd() : OpenTmpfs(options.limit);
  const Backing backing = fd.valid() ? Backing::kTmpfs : Backing::kMemfd;
  if (!fd.valid()) fd = UniqueFd(memfd_create("quire-pool", MFD_CLOEXEC));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "create the pool's file (memfd_create)");
  if (ftruncate(fd.get(), static_cast<off_t>(options.size.in_bytes())) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("extend the pool's file to ", options.size.in_bytes(), " bytes"));
  }
  absl::StatusOr<Mapping> small = MapWhole(fd.get(), options.size);
  if (!small.ok()) return small.status();
  absl::StatusOr<Mapping> huge = MapWhole(fd.get(), options.size);
  if (!huge.ok()) return huge.status();
  PoolFile file(std::move(fd), backing, options.size, *std::move(small), *std::move(huge));
  file.AdviseHugePages(options.arena, options.tables);
  return file;
}

void PoolFile::AdviseHugePages(PageCount arena, PageCount tables) {
  const bool everywhere = KernelIsAtLeast(6, 4);
  // Refused where the kernel has no huge pages: then all pages are small, and nothing else changes.
  madvise(small_.data(), size_.in_bytes(), MADV_NOHUGEPAGE);
  const bool advised = madvise(huge_.data(), (everywhere ? size_ - tables : arena).in_bytes(), MADV_HUGEPAGE) == 0;
  reservations_have_blocks_ = advised && everywhere && backing_ == Backing::kTmpfs;
}

// Not by fallocate: that looks at no advice, and so makes small pages, on a tmpfs with huge=advise (seen on
// Linux 6.18).
absl::Status PoolFile::Populate(std::byte* alias, FrameRange range) {
  int result;
  do {
    result = madvise(alias, range.size().in_bytes(), MADV_POPULATE_WRITE);
  } while (result != 0 && (errno == EINTR || errno == EAGAIN));
  if (result == 0) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("the host has no memory for ", range.size().in_bytes(),
                                                   " bytes of the pool (", std::strerror(errno),
                                                   "): free memory there, or make the pool smaller"));
}

bool PoolFile::Punch(FrameRange range) {
  PunchOnce(range);
  if (range.size().in_pages() % kPagesPerBlock == 0) return true;
  for (int tries = 1; !IsHole(range); ++tries) {
    if (tries == kPunchTries) return false;
    sched_yield();  // to whoever holds the reference
    PunchOnce(range);
  }
  return true;
}

void PoolFile::PunchOnce(FrameRange range) {
  int result;
  do {
    result =
        fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(range.begin().value() * kPageSize), static_cast<off_t>(range.size().in_bytes()));
  } while (result != 0 && errno == EINTR);
  QUIRE_CHECK(result == 0);
}

bool PoolFile::IsHole(FrameRange range) const {
  const off_t data = lseek(fd_.get(), static_cast<off_t>(range.begin().value() * kPageSize), SEEK_DATA);
  return data < 0 || data >= static_cast<off_t>(range.end().value() * kPageSize);
}

PageCount PoolFile::PopulatedPages() const {
  struct stat st;
  QUIRE_CHECK(fstat(fd_.get(), &st) == 0);
  return PageCount(static_cast<uint64_t>(st.st_blocks) * 512 / kPageSize);
}

}  // namespace quire
