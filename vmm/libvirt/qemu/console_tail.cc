#include "vmm/libvirt/qemu/console_tail.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

namespace quire {

void ConsoleTail::Read() {
  const UniqueFd fd(open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat file;
  if (!fd.valid() || fstat(fd.get(), &file) != 0) return;
  if (file.st_ino != file_ || file.st_size < read_) read_ = 0;
  file_ = file.st_ino;
  char bytes[65536];
  for (size_t all = 0; all < kMostAtOnce;) {
    const ssize_t length = pread(fd.get(), bytes, sizeof bytes, read_);
    if (length <= 0) return;
    report_.Add(absl::string_view(bytes, static_cast<size_t>(length)));
    read_ += length;
    all += static_cast<size_t>(length);
  }
}

}  // namespace quire
