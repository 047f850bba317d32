#include "workloads/content_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"

namespace quire {
namespace {

absl::Status Unusable(const std::string& path, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("--content=", path, ": ", why, "; give a readable regular file of at least ", kPageSize, " bytes"));
}

// Reads page `page` of the file to `to`. False with errno on error, and with errno 0 when the file ends before.
bool ReadPage(int fd, uint64_t page, std::byte* to) {
  for (uint64_t done = 0; done < kPageSize;) {
    const ssize_t got = pread(fd, to + done, kPageSize - done, static_cast<off_t>(page * kPageSize + done));
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) errno = 0;
    if (got <= 0) return false;
    done += static_cast<uint64_t>(got);
  }
  return true;
}

}  // namespace

absl::StatusOr<ContentFile> ContentFile::Load(const std::string& path) {
  // O_NONBLOCK: opening a FIFO would wait for a writer.
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return Unusable(path, absl::StrCat("cannot be opened: ", std::strerror(errno)));

  struct stat file;
  if (fstat(fd.get(), &file) != 0) return Unusable(path, absl::StrCat("cannot be examined: ", std::strerror(errno)));
  if (!S_ISREG(file.st_mode)) return Unusable(path, "is not a regular file");
  const uint64_t pages_in_file = static_cast<uint64_t>(file.st_size) >> kPageShift;
  if (pages_in_file == 0) return Unusable(path, absl::StrCat("has only ", file.st_size, " bytes"));

  const PageCount size = std::min(PageCount(pages_in_file), kMost);
  absl::StatusOr<Mapping> pages =
      Mapping::Map(size.bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (!pages.ok()) return pages.status();
  for (uint64_t i = 0; i < size.in_pages(); ++i) {
    if (ReadPage(fd.get(), i * pages_in_file / size.in_pages(), pages->data() + i * kPageSize)) continue;
    return Unusable(
        path, errno != 0 ? absl::StrCat("cannot be read: ", std::strerror(errno)) : "became shorter while it was read");
  }
  return ContentFile(*std::move(pages));
}

}  // namespace quire
