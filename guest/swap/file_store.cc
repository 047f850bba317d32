#include "guest/swap/file_store.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/types.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {
namespace {

// Filesystems differ in when they refuse O_DIRECT: as it is set, or as the first transfer is made.
bool GoPastPageCache(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_DIRECT) != 0) return false;
  alignas(BackingStore::kAlignment) std::array<std::byte, BackingStore::kAlignment> page;
  if (pread(fd, page.data(), page.size(), 0) == static_cast<ssize_t>(page.size())) return true;
  fcntl(fd, F_SETFL, flags);
  return false;
}

bool IsNoRoom(int error) { return error == ENOSPC || error == EDQUOT || error == EFBIG; }

// Errors of a discard that will come each time.
bool IsUnsupported(int error) {
  return error == EOPNOTSUPP || error == ENOSYS || error == ENOTTY || error == EINVAL || error == EPERM;
}

void CheckTransfers(absl::Span<const BackingStore::Transfer> transfers, ByteCount size) {
  for (const BackingStore::Transfer& transfer : transfers) {
    QUIRE_CHECK(transfer.offset.in_bytes() % BackingStore::kAlignment == 0);
    QUIRE_CHECK(transfer.bytes.size() % BackingStore::kAlignment == 0);
    QUIRE_CHECK(Hva(transfer.bytes.data()).value() % BackingStore::kAlignment == 0);
    QUIRE_CHECK(transfer.offset <= size && transfer.bytes.size() <= (size - transfer.offset).in_bytes());
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<FileStore>> FileStore::Open(const FileStoreOptions& options) {
  absl::StatusOr<SwapFile> file = SwapFile::Open(options.path, options.size);
  if (!file.ok()) return file.status();
  const bool direct = options.direct && GoPastPageCache(file->fd());
  absl::StatusOr<std::unique_ptr<FileIo>> io = absl::FailedPreconditionError("it was asked to do without io_uring");
  if (options.io == FileStoreOptions::Io::kUringOrPread) io = MakeUringIo(file->fd());
  std::string why_no_uring(io.status().message());
  if (!io.ok()) io = MakePreadIo(file->fd());
  return std::unique_ptr<FileStore>(new FileStore(*std::move(file), *std::move(io), std::move(why_no_uring), direct));
}

absl::Status FileStore::Move(FileDirection direction, absl::Span<const Transfer> transfers) {
  CheckTransfers(transfers, size());
  std::vector<FileRequest> requests = MakeFileRequests(transfers, SwapFile::kHeader);
  uint64_t bytes = 0;
  for (const FileRequest& request : requests) bytes += request.length();
  const bool reads = direction == FileDirection::kRead;
  (reads ? reads_ : writes_).Add();
  requests_.Add(requests.size());

  io_->Run(direction, absl::MakeSpan(requests));

  const FileRequest* worst = nullptr;
  for (const FileRequest& request : requests) {
    repeats_.Add(request.repeats());
    if (request.failed() && (worst == nullptr || IsNoRoom(worst->error()))) worst = &request;
  }
  if (worst != nullptr) return Failure(direction, *worst);
  (reads ? read_ : written_).Add(bytes);
  return absl::OkStatus();
}

absl::Status FileStore::Failure(FileDirection direction, const FileRequest& request) {
  const bool reads = direction == FileDirection::kRead;
  const std::string attempt = absl::StrCat(reads ? "reading " : "writing ", request.length(), " bytes at offset ",
                                           request.offset(), " of ", description(), ": ");
  if (reads && request.error() == FileRequest::kEndOfFile) {
    cut_short_.Add();
    return absl::DataLossError(absl::StrCat(attempt, "it ends before; somebody else has made it shorter"));
  }
  const char* const error = std::strerror(request.error());
  if (!reads && IsNoRoom(request.error())) {
    no_room_.Add();
    return absl::ResourceExhaustedError(
        absl::StrCat(attempt, error, "; make room on that disk, or use another one for swap"));
  }
  failures_.Add();
  return absl::DataLossError(absl::StrCat(attempt, error, "; the host's kernel log may say more"));
}

void FileStore::Discard(ByteCount offset, ByteCount length) {
  QUIRE_CHECK(offset <= size() && length <= size() - offset);
  if (length == ByteCount() || !can_discard_.load(std::memory_order_relaxed)) return;
  if (DiscardOnHost(SwapFile::kHeader + offset, length) == 0) {
    discarded_.Add(length.in_bytes());
    return;
  }
  discards_refused_.Add();
  if (IsUnsupported(errno)) can_discard_.store(false, std::memory_order_relaxed);
}

int FileStore::DiscardOnHost(ByteCount offset, ByteCount length) const {
  if (file_.is_device()) {
    uint64_t range[] = {offset.in_bytes(), length.in_bytes()};
    return ioctl(file_.fd(), BLKDISCARD, range);
  }
  return fallocate(file_.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset.in_bytes()),
                   static_cast<off_t>(length.in_bytes()));
}

FileStore::Statistics FileStore::statistics() const {
  return {.read = ByteCount::Bytes(read_.value()),
          .written = ByteCount::Bytes(written_.value()),
          .reads = reads_.value(),
          .writes = writes_.value(),
          .requests = requests_.value(),
          .repeats = repeats_.value(),
          .no_room = no_room_.value(),
          .cut_short = cut_short_.value(),
          .failures = failures_.value(),
          .discarded = ByteCount::Bytes(discarded_.value()),
          .discards_refused = discards_refused_.value()};
}

}  // namespace quire
