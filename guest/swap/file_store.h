// Stored pages on a disk: a file or a block device, past the host's page cache where the filesystem lets it (O_DIRECT),
// several transfers at once where the host does (io_uring).
//
// The host's page cache would hold a second copy of what was put here to have it out of memory. tmpfs and some network
// filesystems know no other way, and are used as they are.
#ifndef QUIRE_GUEST_SWAP_FILE_STORE_H_
#define QUIRE_GUEST_SWAP_FILE_STORE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/counters.h"
#include "base/units.h"
#include "guest/swap/backing_store.h"
#include "guest/swap/file_io.h"
#include "guest/swap/file_request.h"
#include "guest/swap/swap_file.h"

namespace quire {

struct FileStoreOptions {
  enum class Io : uint8_t { kUringOrPread, kPread };

  std::string path = {};  // as SwapFile::Open takes it
  ByteCount size = {};    // room for data, whole pages; 0: what the device or the file has
  // Forced slow paths.
  Io io = Io::kUringOrPread;
  bool direct = true;  // past the page cache, if that can be
};

// Thread safe. At most eight calls transfer at once through io_uring; others wait for one of these to end.
class FileStore final : public BackingStore {
 public:
  // Errors: those of SwapFile::Open. That io_uring or O_DIRECT is not to be had is none.
  static absl::StatusOr<std::unique_ptr<FileStore>> Open(const FileStoreOptions& options);
  // No call is under way. A file that was made is removed.
  ~FileStore() override = default;

  absl::string_view name() const override { return "file"; }
  std::string description() const override { return file_.description(); }
  ByteCount size() const override { return file_.size(); }
  absl::Status Write(absl::Span<const Transfer> transfers) override { return Move(FileDirection::kWrite, transfers); }
  absl::Status Read(absl::Span<const Transfer> transfers, IfAway) override {
    return Move(FileDirection::kRead, transfers);
  }
  // Punches a hole in a file, discards on a device (TRIM); nothing once the host has said that it cannot.
  void Discard(ByteCount offset, ByteCount length) override;

  bool uses_uring() const { return why_no_uring_.empty(); }
  // Empty if it is used.
  const std::string& why_no_uring() const { return why_no_uring_; }
  // Whether transfers go past the host's page cache.
  bool direct() const { return direct_; }

  struct Statistics {
    ByteCount read;  // by calls that succeeded
    ByteCount written;
    uint64_t reads;      // calls
    uint64_t writes;     // calls
    uint64_t requests;   // that they became, adjacent transfers being one
    uint64_t repeats;    // requests of which only a part was done at first, or that the kernel asked to try again
    uint64_t no_room;    // writes refused because the disk, the quota or the limit on file sizes is reached
    uint64_t cut_short;  // reads past the end of a file that has become shorter
    uint64_t failures;   // calls that failed otherwise
    ByteCount discarded;
    uint64_t discards_refused;
  };
  Statistics statistics() const;

 private:
  FileStore(SwapFile file, std::unique_ptr<FileIo> io, std::string why_no_uring, bool direct)
      : file_(std::move(file)), direct_(direct), io_(std::move(io)), why_no_uring_(std::move(why_no_uring)) {}

  absl::Status Move(FileDirection direction, absl::Span<const Transfer> transfers);
  absl::Status Failure(FileDirection direction, const FileRequest& request);
  // Zero or -1 with errno.
  int DiscardOnHost(ByteCount offset, ByteCount length) const;

  const SwapFile file_;
  const bool direct_;
  const std::unique_ptr<FileIo> io_;  // refers to file_
  const std::string why_no_uring_;
  std::atomic<bool> can_discard_ = true;
  Counter read_, written_, reads_, writes_, requests_, repeats_;
  Counter no_room_, cut_short_, failures_;
  Counter discarded_, discards_refused_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_FILE_STORE_H_
