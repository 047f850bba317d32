// Where one guest's private pages live: at their own place in the guest's reservation, or anywhere in the arena.
#ifndef QUIRE_GUEST_FRAMES_FRAME_SOURCE_H_
#define QUIRE_GUEST_FRAMES_FRAME_SOURCE_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/check.h"
#include "base/units.h"
#include "guest/frames/page_limit.h"
#include "guest/frames/pool.h"

namespace quire {

class FrameSource {
 public:
  virtual ~FrameSource() = default;

  // `count` frames in a row, at most max_run(), for the pages from `gfn` on. Never waits. Errors as Pool's allocation,
  // and OutOfRange: the guest would go beyond its own limit.
  virtual absl::StatusOr<FrameNumber> Acquire(Gfn gfn, PageCount count) = 0;
  // 512 frames in a row, aligned, for the block that begins with page `first`. Never waits. Errors as Acquire's,
  // and never a reason to stop a guest: its pages can be had one by one.
  virtual absl::StatusOr<FrameNumber> AcquireBlock(Gfn first) = 0;
  // Nobody maps the frames any more.
  virtual void Release(Gfn gfn, FrameNumber frame, PageCount count) = 0;

  // Its memory has failed, and it is taken out of use.
  virtual void Retire(Gfn gfn, FrameNumber frame) = 0;

  // `frame`, one of the arena, has become that of page `gfn`, whose content was moved there. Only where any frame will
  // do.
  virtual void Adopt(Gfn gfn, FrameNumber frame) = 0;

  virtual PageCount max_run() const = 0;
  // Whether fresh frames read as zero.
  virtual bool zeroed() const = 0;
  // The frames that are the guest's by their place; empty if any frame will do.
  virtual FrameRange reservation() const = 0;
  // `frame`, that of page `gfn`, is not to be moved as long as it is wired.
  virtual void SetWired(Gfn gfn, FrameNumber frame, bool wired) = 0;
  // Whether `frame` can be that of page `gfn`, wired or not: the reverse map of an exclusive page, for Check().
  virtual bool Owns(Gfn gfn, FrameNumber frame, bool wired) const = 0;
};

// A window guest: page gfn lives in frame first + gfn, always.
class ReservedFrames final : public FrameSource {
 public:
  ReservedFrames(Pool& pool, FrameRange reservation) : pool_(pool), reservation_(reservation) {}

  absl::StatusOr<FrameNumber> Acquire(Gfn gfn, PageCount count) override {
    const FrameNumber home = Home(gfn);
    if (absl::Status status = pool_.PopulateReserved(FrameRange(home, count)); !status.ok()) return status;
    return home;
  }
  absl::StatusOr<FrameNumber> AcquireBlock(Gfn first) override {
    if (!pool_.reservations_have_blocks()) return absl::UnimplementedError("no whole blocks on this host");
    return Acquire(first, kOneBlock);
  }
  void Release(Gfn, FrameNumber frame, PageCount count) override { pool_.ReleaseReserved(FrameRange(frame, count)); }
  void Retire(Gfn, FrameNumber frame) override { pool_.RetireFrame(frame); }
  void Adopt(Gfn, FrameNumber) override { QUIRE_CHECK(false); }
  PageCount max_run() const override { return kOneBlock; }
  FrameRange reservation() const override { return reservation_; }
  bool zeroed() const override { return true; }
  void SetWired(Gfn, FrameNumber, bool) override {}  // it never moves
  bool Owns(Gfn gfn, FrameNumber frame, bool) const override { return frame == Home(gfn); }

 private:
  FrameNumber Home(Gfn gfn) const { return reservation_.begin() + (gfn - Gfn(0)); }

  Pool& pool_;
  const FrameRange reservation_;
};

// A guest whose MMU can map any frame anywhere.
class ArenaFrames final : public FrameSource {
 public:
  ArenaFrames(Pool& pool, GuestId guest) : pool_(pool), guest_(guest) {}

  absl::StatusOr<FrameNumber> Acquire(Gfn gfn, PageCount) override {
    absl::StatusOr<FrameNumber> frame = pool_.AllocateFrame();
    if (frame.ok()) Adopt(gfn, *frame);
    return frame;
  }
  absl::StatusOr<FrameNumber> AcquireBlock(Gfn first) override {
    const absl::StatusOr<FrameNumber> frames = pool_.AllocateBlock();
    if (!frames.ok()) return frames;
    for (uint64_t i = 0; i < kPagesPerBlock; ++i) {
      Adopt(first + PageCount(i), *frames + PageCount(i));
    }
    return frames;
  }
  void Release(Gfn, FrameNumber frame, PageCount count) override { pool_.FreeFrames(FrameRange(frame, count)); }
  void Retire(Gfn, FrameNumber frame) override { pool_.RetireFrame(frame); }
  void Adopt(Gfn gfn, FrameNumber frame) override { SetWired(gfn, frame, /*wired=*/false); }
  void SetWired(Gfn gfn, FrameNumber frame, bool wired) override {
    pool_.arena().frames().Set(frame, DescriptorOf(gfn, wired));
  }
  PageCount max_run() const override { return kOnePage; }
  FrameRange reservation() const override { return FrameRange(); }
  bool zeroed() const override { return false; }
  bool Owns(Gfn gfn, FrameNumber frame, bool wired) const override {
    return pool_.arena().frames().Get(frame) == DescriptorOf(gfn, wired);
  }

 private:
  FrameDescriptor DescriptorOf(Gfn gfn, bool wired) const {
    return wired ? FrameDescriptor::OwnedAndWired(guest_, gfn) : FrameDescriptor::Owned(guest_, gfn);
  }

  Pool& pool_;
  const GuestId guest_;
};

// The same frames for a guest that may have only so many. What it holds never exceeds what is charged.
class LimitedFrames final : public FrameSource {
 public:
  LimitedFrames(std::unique_ptr<FrameSource> frames, PageLimit& limit) : frames_(std::move(frames)), limit_(limit) {}

  absl::StatusOr<FrameNumber> Acquire(Gfn gfn, PageCount count) override {
    return Charged(count, [&] { return frames_->Acquire(gfn, count); });
  }
  absl::StatusOr<FrameNumber> AcquireBlock(Gfn first) override {
    return Charged(kOneBlock, [&] { return frames_->AcquireBlock(first); });
  }
  void Release(Gfn gfn, FrameNumber frame, PageCount count) override {
    frames_->Release(gfn, frame, count);
    limit_.Uncharge(count);
  }
  void Retire(Gfn gfn, FrameNumber frame) override {
    frames_->Retire(gfn, frame);
    limit_.Uncharge(kOnePage);
  }
  // The frame that it takes the place of is released next.
  void Adopt(Gfn gfn, FrameNumber frame) override {
    limit_.ChargeReplacement(kOnePage);
    frames_->Adopt(gfn, frame);
  }
  PageCount max_run() const override { return frames_->max_run(); }
  FrameRange reservation() const override { return frames_->reservation(); }
  bool zeroed() const override { return frames_->zeroed(); }
  void SetWired(Gfn gfn, FrameNumber frame, bool wired) override { frames_->SetWired(gfn, frame, wired); }
  bool Owns(Gfn gfn, FrameNumber frame, bool wired) const override { return frames_->Owns(gfn, frame, wired); }

 private:
  template <class Acquire>
  absl::StatusOr<FrameNumber> Charged(PageCount count, Acquire acquire) {
    if (!limit_.TryCharge(count)) return absl::OutOfRangeError("the guest's own limit is reached");
    absl::StatusOr<FrameNumber> frames = acquire();
    if (!frames.ok()) limit_.Uncharge(count);
    return frames;
  }

  const std::unique_ptr<FrameSource> frames_;
  PageLimit& limit_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_FRAMES_FRAME_SOURCE_H_
