// The file that holds all of the guests' memory: sparse, on a private tmpfs, seen by the manager through two aliases.
//
// A frame is a 4 KiB page of this file. The file costs what is populated, and its own block count (st_blocks) proves
// the figure from outside. Nothing here counts against a limit: that is Budget's work, and every caller charges before
// it populates and uncharges after it punches.
//
//   small alias   whole file, MADV_NOHUGEPAGE: a store populates one 4 KiB page
//   huge alias    whole file, MADV_HUGEPAGE: a store populates a whole 2 MiB block
//
// Before Linux 6.4 the part of the huge alias that lies over reservations carries no advice: khugepaged of those
// kernels would fill holes between a guest's pages there. Reservations have no whole blocks then.
#ifndef QUIRE_GUEST_FRAMES_POOL_FILE_H_
#define QUIRE_GUEST_FRAMES_POOL_FILE_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mapping.h"
#include "base/unique_fd.h"
#include "base/units.h"

namespace quire {

struct PoolFileOptions {
  PageCount size;          // the file's length; whole blocks
  PageCount arena;         // the first part of it; whole blocks
  PageCount tables = {};   // the last part of it, which has no huge pages; whole blocks
  PageCount limit;         // what is ever populated; the filesystem may hold kRoom times that for moments
  bool use_memfd = false;  // skip the private mount (forced slow path)
};

class PoolFile {
 public:
  enum class Backing { kTmpfs, kMemfd };
  static constexpr uint64_t kRoom = 2;

  // Mounts a tmpfs in a mount namespace of a short-lived child process (and a user namespace where this process may not
  // mount), which hands the open file back; falls back to memfd_create, which has 4 KiB pages only on most hosts.
  // Call before threads are started: it forks.
  static absl::StatusOr<PoolFile> Create(const PoolFileOptions& options);

  PoolFile(PoolFile&&) = default;
  PoolFile& operator=(PoolFile&&) = default;

  int fd() const { return fd_.get(); }
  Backing backing() const { return backing_; }
  PageCount size() const { return size_; }
  // Whether PopulateBlock makes 2 MiB folios of a reservation's blocks. (It does of the arena's wherever there are
  // any.)
  bool reservations_have_blocks() const { return reservations_have_blocks_; }

  std::byte* SmallAlias(FrameNumber frame) const { return small_.data() + frame.value() * kPageSize; }
  std::byte* HugeAlias(FrameNumber frame) const { return huge_.data() + frame.value() * kPageSize; }

  // Populates whole blocks with zeros, as 2 MiB folios where the filesystem has them, and maps them into the huge
  // alias. The pages of the range are holes. ResourceExhausted: the host or the filesystem has no memory left.
  absl::Status PopulateBlock(FrameRange range) { return Populate(HugeAlias(range.begin()), range); }
  // The same for a few 4 KiB pages, mapped into the small alias.
  absl::Status PopulatePages(FrameRange range) { return Populate(SmallAlias(range.begin()), range); }

  // Gives the range's pages back to the host; it reads as zero afterwards. Unmaps them wherever they were mapped.
  // False: the range reads as zero, but some of its pages are still populated. They are part of a 2 MiB folio that the
  // kernel could not split, because somebody held a reference to it at that moment (KVM does while it maps a page).
  // Only a range that is less than a block can meet with this; trying again later helps.
  [[nodiscard]] bool Punch(FrameRange range);

  // What the file holds now, by its own block count.
  PageCount PopulatedPages() const;

 private:
  PoolFile(UniqueFd fd, Backing backing, PageCount size, Mapping small, Mapping huge)
      : fd_(std::move(fd)), backing_(backing), size_(size), small_(std::move(small)), huge_(std::move(huge)) {}

  void AdviseHugePages(PageCount arena, PageCount tables);
  absl::Status Populate(std::byte* alias, FrameRange range);
  void PunchOnce(FrameRange range);
  bool IsHole(FrameRange range) const;

  UniqueFd fd_;
  Backing backing_;
  PageCount size_;
  bool reservations_have_blocks_ = false;
  Mapping small_;
  Mapping huge_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_FRAMES_POOL_FILE_H_
