// Units as types: addresses, page numbers and sizes of guest and host memory.
//
// A raw integer never crosses an interface of this project: a guest frame number cannot be passed where a frame of the
// pool is meant, nor a count of pages where bytes are. All types here are values the size of a uint64_t, cheap to
// copy, safe to share between threads as any integer is.
//
//   Gpa, Gfn    guest physical address, guest frame number (one guest's own numbering)
//   Hva         host virtual address
//   FrameNumber 4 KiB page of the pool's file, counted from the start of the file
//   BlockNumber 2 MiB block, 512 pages, of a guest's memory
#ifndef QUIRE_BASE_UNITS_H_
#define QUIRE_BASE_UNITS_H_

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <ostream>
#include <type_traits>

namespace quire {

inline constexpr int kPageShift = 12;
inline constexpr int kBlockShift = 21;
inline constexpr uint64_t kPageSize = uint64_t{1} << kPageShift;
inline constexpr uint64_t kBlockSize = uint64_t{1} << kBlockShift;
inline constexpr int kBlockOrder = kBlockShift - kPageShift;  // a block is an order-9 run of frames
inline constexpr uint64_t kPagesPerBlock = uint64_t{1} << kBlockOrder;

// A size in bytes.
class ByteCount {
 public:
  constexpr ByteCount() = default;
  static constexpr ByteCount Bytes(uint64_t n) { return ByteCount(n); }
  static constexpr ByteCount KiB(uint64_t n) { return ByteCount(n << 10); }
  static constexpr ByteCount MiB(uint64_t n) { return ByteCount(n << 20); }
  static constexpr ByteCount GiB(uint64_t n) { return ByteCount(n << 30); }

  constexpr uint64_t in_bytes() const { return bytes_; }
  constexpr double in_mib() const { return static_cast<double>(bytes_) / (1 << 20); }
  constexpr bool page_aligned() const { return bytes_ % kPageSize == 0; }

  friend constexpr auto operator<=>(ByteCount, ByteCount) = default;
  friend constexpr ByteCount operator+(ByteCount a, ByteCount b) { return ByteCount(a.bytes_ + b.bytes_); }
  friend constexpr ByteCount operator-(ByteCount a, ByteCount b) { return ByteCount(a.bytes_ - b.bytes_); }
  constexpr ByteCount& operator+=(ByteCount o) { return *this = *this + o; }
  friend std::ostream& operator<<(std::ostream& os, ByteCount n) { return os << n.bytes_ << " bytes"; }

 private:
  constexpr explicit ByteCount(uint64_t bytes) : bytes_(bytes) {}
  uint64_t bytes_ = 0;
};

// A number of 4 KiB pages (or frames: the same size).
class PageCount {
 public:
  constexpr PageCount() = default;
  constexpr explicit PageCount(uint64_t pages) : pages_(pages) {}
  static constexpr PageCount OfOrder(int order) { return PageCount(uint64_t{1} << order); }
  static constexpr PageCount OfBlocks(uint64_t blocks) { return PageCount(blocks * kPagesPerBlock); }
  // Whole pages in `size`, a partial last page counted as one.
  static constexpr PageCount Ceil(ByteCount size) {
    return PageCount((size.in_bytes() >> kPageShift) + (size.page_aligned() ? 0 : 1));
  }

  constexpr uint64_t in_pages() const { return pages_; }
  constexpr uint64_t in_bytes() const { return pages_ << kPageShift; }
  constexpr ByteCount bytes() const { return ByteCount::Bytes(in_bytes()); }
  // Blocks needed to hold this many pages.
  constexpr uint64_t in_blocks_ceil() const { return (pages_ + kPagesPerBlock - 1) >> kBlockOrder; }

  friend constexpr auto operator<=>(PageCount, PageCount) = default;
  friend constexpr PageCount operator+(PageCount a, PageCount b) { return PageCount(a.pages_ + b.pages_); }
  friend constexpr PageCount operator-(PageCount a, PageCount b) { return PageCount(a.pages_ - b.pages_); }
  friend constexpr PageCount operator*(PageCount a, uint64_t n) { return PageCount(a.pages_ * n); }
  friend constexpr PageCount operator/(PageCount a, uint64_t n) { return PageCount(a.pages_ / n); }
  constexpr PageCount& operator+=(PageCount o) { return *this = *this + o; }
  constexpr PageCount& operator-=(PageCount o) { return *this = *this - o; }
  friend std::ostream& operator<<(std::ostream& os, PageCount n) { return os << n.pages_ << " pages"; }

 private:
  uint64_t pages_ = 0;
};

inline constexpr PageCount kOnePage(1);
inline constexpr PageCount kOneBlock(kPagesPerBlock);

// A position in a numbered sequence. Adding a distance gives a position, subtracting positions a distance.
template <class Tag>
class Index {
 public:
  constexpr Index() = default;
  constexpr explicit Index(uint64_t value) : value_(value) {}
  constexpr uint64_t value() const { return value_; }

  friend constexpr auto operator<=>(Index, Index) = default;
  constexpr Index& operator++() { return ++value_, *this; }

  template <class H>
  friend H AbslHashValue(H h, Index i) {
    return H::combine(std::move(h), i.value_);
  }
  friend std::ostream& operator<<(std::ostream& os, Index i) { return os << Tag::kName << ' ' << i.value_; }

 private:
  uint64_t value_ = 0;
};

struct GfnTag {
  static constexpr const char* kName = "gfn";
};
struct FrameTag {
  static constexpr const char* kName = "frame";
};
struct BlockTag {
  static constexpr const char* kName = "block";
};

using Gfn = Index<GfnTag>;
using FrameNumber = Index<FrameTag>;
using BlockNumber = Index<BlockTag>;

// Page numbers (Gfn, FrameNumber) are counted in pages.
template <class Tag>
concept PageTag = std::is_same_v<Tag, GfnTag> || std::is_same_v<Tag, FrameTag>;

template <PageTag Tag>
constexpr Index<Tag> operator+(Index<Tag> i, PageCount n) {
  return Index<Tag>(i.value() + n.in_pages());
}
template <PageTag Tag>
constexpr Index<Tag> operator-(Index<Tag> i, PageCount n) {
  return Index<Tag>(i.value() - n.in_pages());
}
template <PageTag Tag>
constexpr PageCount operator-(Index<Tag> a, Index<Tag> b) {
  return PageCount(a.value() - b.value());
}

// The half-open range [begin, end) of page numbers.
template <PageTag Tag>
class PageRange {
 public:
  constexpr PageRange() = default;
  constexpr PageRange(Index<Tag> begin, Index<Tag> end) : begin_(begin), end_(end) {}
  constexpr PageRange(Index<Tag> begin, PageCount size) : begin_(begin), end_(begin + size) {}

  constexpr Index<Tag> begin() const { return begin_; }
  constexpr Index<Tag> end() const { return end_; }
  constexpr PageCount size() const { return empty() ? PageCount() : end_ - begin_; }
  constexpr bool empty() const { return end_ <= begin_; }
  constexpr bool contains(Index<Tag> i) const { return begin_ <= i && i < end_; }
  constexpr bool contains(PageRange o) const { return begin_ <= o.begin_ && o.end_ <= end_; }
  constexpr bool overlaps(PageRange o) const { return begin_ < o.end_ && o.begin_ < end_; }
  constexpr PageRange Intersect(PageRange o) const {
    return PageRange(std::max(begin_, o.begin_), std::min(end_, o.end_));
  }
  // The smallest range that holds both; an empty range adds nothing.
  constexpr PageRange Hull(PageRange o) const {
    if (empty()) return o;
    if (o.empty()) return *this;
    return PageRange(std::min(begin_, o.begin_), std::max(end_, o.end_));
  }

  friend constexpr bool operator==(PageRange, PageRange) = default;
  friend std::ostream& operator<<(std::ostream& os, PageRange r) {
    return os << Tag::kName << " [" << r.begin_.value() << ", " << r.end_.value() << ')';
  }

 private:
  Index<Tag> begin_;
  Index<Tag> end_;
};

using GfnRange = PageRange<GfnTag>;
using FrameRange = PageRange<FrameTag>;

// A guest physical address.
class Gpa {
 public:
  constexpr Gpa() = default;
  constexpr explicit Gpa(uint64_t value) : value_(value) {}
  constexpr uint64_t value() const { return value_; }
  constexpr Gfn gfn() const { return Gfn(value_ >> kPageShift); }
  constexpr uint64_t offset_in_page() const { return value_ % kPageSize; }
  friend constexpr auto operator<=>(Gpa, Gpa) = default;
  friend constexpr Gpa operator+(Gpa a, ByteCount n) { return Gpa(a.value_ + n.in_bytes()); }

 private:
  uint64_t value_ = 0;
};

// A host virtual address. Only its owner may turn it into a pointer.
class Hva {
 public:
  constexpr Hva() = default;
  constexpr explicit Hva(uint64_t value) : value_(value) {}
  explicit Hva(const void* p) : value_(reinterpret_cast<uintptr_t>(p)) {}
  constexpr uint64_t value() const { return value_; }
  std::byte* pointer() const { return reinterpret_cast<std::byte*>(value_); }
  friend constexpr auto operator<=>(Hva, Hva) = default;
  friend constexpr Hva operator+(Hva a, ByteCount n) { return Hva(a.value_ + n.in_bytes()); }

 private:
  uint64_t value_ = 0;
};

constexpr Gpa ToGpa(Gfn gfn) { return Gpa(gfn.value() << kPageShift); }
constexpr BlockNumber BlockOf(Gfn gfn) { return BlockNumber(gfn.value() >> kBlockOrder); }
constexpr uint64_t IndexInBlock(Gfn gfn) { return gfn.value() % kPagesPerBlock; }
constexpr Gfn FirstGfn(BlockNumber block) { return Gfn(block.value() << kBlockOrder); }
constexpr GfnRange PagesOf(BlockNumber block) { return GfnRange(FirstGfn(block), kOneBlock); }

// The part of a range that is made of whole blocks; may be empty.
constexpr GfnRange WholeBlocksOf(GfnRange range) {
  if (range.empty()) return GfnRange();
  const BlockNumber first(PageCount(range.begin().value()).in_blocks_ceil());
  return GfnRange(FirstGfn(first), FirstGfn(BlockOf(range.end())));
}

// What a vCPU or device wants to do with a page, and what a translation lets it do.
enum class Access : uint8_t { kRead, kWrite };
enum class Protection : uint8_t { kReadOnly, kReadWrite };
constexpr bool Allows(Protection protection, Access access) {
  return access == Access::kRead || protection == Protection::kReadWrite;
}

}  // namespace quire

#endif  // QUIRE_BASE_UNITS_H_
