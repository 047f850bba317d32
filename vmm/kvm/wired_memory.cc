#include "vmm/kvm/wired_memory.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr int kVectors = 32;  // exceptions; interrupts never arrive

// Segments of the program, and their selectors: those of Linux, with requested privilege level 3.
//   63     56 55  52 51  48 47   40 39             16 15             0
//  +---------+------+------+-------+-----------------+----------------+
//  | base    |flags |limit |access |      base       |     limit      |
//  +---------+------+------+-------+-----------------+----------------+
// flags: G (4 KiB units), D or L (64-bit code); access: present, level 3, code or data, accessed. Long mode looks at
// little else. "Accessed" is set beforehand: the processor never has to write here.
constexpr uint64_t kDataSegment = 0x00cf'f300'0000'ffff;  // index 5: selector 0x2b
constexpr uint64_t kCodeSegment = 0x00af'fb00'0000'ffff;  // index 6: selector 0x33
constexpr uint64_t kGdt[] = {0, 0, 0, 0, 0, kDataSegment, kCodeSegment};
constexpr uint16_t kCodeSelector = 0x33;

// An interrupt gate of the IDT (Intel SDM volume 3, 6.14.1).
struct Gate {
  uint16_t offset_low;
  uint16_t selector;
  uint8_t stack;  // number in the interrupt stack table, 1 to 7
  uint8_t type;
  uint16_t offset_middle;
  uint32_t offset_high;
  uint32_t reserved;
};
static_assert(sizeof(Gate) == 16);
constexpr uint8_t kInterruptGate = 0x8e;  // present, level 0: INT n by the program is a general protection fault

// The 64-bit task state segment (Intel SDM volume 3, 7.7), of which only one stack is used.
struct __attribute__((packed)) TaskState {
  uint32_t reserved0;
  uint64_t stack_of_level[3];
  uint64_t reserved1;
  uint64_t interrupt_stack[7];
  uint64_t reserved2;
  uint16_t reserved3;
  uint16_t io_map;  // offset of the I/O permission map from here
};
static_assert(sizeof(TaskState) == 104);

// The frame that an exception leaves at the end of the vCPU's 64 bytes, which are its interrupt stack. The error code
// is there for some exceptions only.
struct FaultFrame {
  uint64_t unused[2];
  uint64_t error_code;
  uint64_t rip;
  uint64_t cs;
  uint64_t rflags;
  uint64_t rsp;
  uint64_t ss;
};
static_assert(sizeof(FaultFrame) == 64);

// The I/O permission map, a zero bit for each port that the program may use: all of them. IOPL 3 alone would do for a
// processor, but a KVM that runs level 3 without hardware help (kvm-pvm) asks this map whatever IOPL says. A byte of
// ones ends it (Intel SDM volume 1, 19.5.2).
constexpr uint64_t kIoMapSize = 65536 / 8 + 1;

// The descriptors page by page: GDT and IDT share the first, task state segments follow, then the I/O permission map
// that all of them point to.
constexpr uint64_t kIdtOffset = 0x100;
constexpr uint64_t kTssOffset = kPageSize;
constexpr uint64_t kTssStride = 128;
constexpr uint64_t TssOffset(int vcpu) { return kTssOffset + vcpu * kTssStride; }
constexpr uint64_t IoMapOffset(int vcpus) { return TssOffset(vcpus); }
constexpr uint64_t DescriptorsSize(int vcpus) { return IoMapOffset(vcpus) + kIoMapSize; }
static_assert(DescriptorsSize(QUIRE_MAX_VCPUS) - kTssOffset <= 0x10000, "a task state segment reaches 16 bits far");
static_assert(sizeof(kGdt) <= kIdtOffset && kIdtOffset + kVectors * sizeof(Gate) <= kPageSize);
static_assert(sizeof(TaskState) <= kTssStride);

// The code of each exception: OUT to kFaultPort of AL, whatever it is, and again should anybody resume the vCPU.
constexpr uint64_t kFaultCodeStride = 16;
constexpr unsigned char kFaultCode[] = {0xe6, kFaultPort, 0xeb, 0xfc};
static_assert(sizeof(kFaultCode) <= kFaultCodeStride && kFaultPort <= 0xff);

// Exceptions that come with an error code: #DF #TS #NP #SS #GP #PF #AC #CP #VC #SX.
constexpr uint32_t kHasErrorCode = 1u << 8 | 0x1fu << 10 | 1u << 17 | 1u << 21 | 1u << 29 | 1u << 30;

ByteCount WholePages(uint64_t bytes) { return PageCount::Ceil(ByteCount::Bytes(bytes)).bytes(); }
uint64_t RoundUp(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

absl::Status CheckShape(const MachineShape& shape) {
  if (shape.vcpus < 1 || shape.vcpus > static_cast<int>(QUIRE_MAX_VCPUS)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a guest with ", shape.vcpus, " vCPUs: give it 1 to ", QUIRE_MAX_VCPUS));
  }
  if (shape.memory == ByteCount() || !shape.memory.page_aligned()) {
    return absl::InvalidArgumentError(absl::StrCat("guest memory of ", shape.memory.in_bytes(),
                                                   " bytes: it must be a multiple of 4096 and not zero"));
  }
  if (shape.memory.in_bytes() > QUIRE_AUX - QUIRE_MEMORY) {
    return absl::InvalidArgumentError(absl::StrCat("guest memory of ", shape.memory.in_bytes(),
                                                   " bytes is larger than a guest's address space allows: at most ",
                                                   QUIRE_AUX - QUIRE_MEMORY, " bytes"));
  }
  return absl::OkStatus();
}

struct Rights {
  bool writable = false;
  bool executable = false;
  bool user = true;
};

// Places things one after the other: `Add` in wired memory, in ascending order of the guest's addresses, `Place` in the
// guest's physical memory.
class Planner {
 public:
  explicit Planner(const MachineShape& shape) : shape_(shape) {}

  absl::StatusOr<WiredLayout> Plan() &&;

 private:
  // Guest physical address of the next memslot of `size` bytes.
  Gpa Place(ByteCount size) {
    const Gpa gpa(gpa_end_);
    gpa_end_ = RoundUp(gpa_end_ + size.in_bytes(), kGiB);
    return gpa;
  }
  void Map(Gva address, Gpa gpa, ByteCount size, Rights rights) {
    layout_.mappings.push_back({.address = address,
                                .gpa = gpa,
                                .size = size,
                                .writable = rights.writable,
                                .executable = rights.executable,
                                .user = rights.user});
  }
  // Maps the next pages of wired memory and returns their offset.
  ByteCount Add(Gva address, ByteCount size, Rights rights) {
    const ByteCount offset = layout_.size;
    Map(address, Gpa(layout_.gpa.value() + offset.in_bytes()), size, rights);
    layout_.size += size;
    return offset;
  }
  uint64_t PerVcpu(uint64_t bytes) const { return shape_.vcpus * bytes; }

  void PlaceMemslots();
  void AddBeforeProgram();
  void AddProgram();
  void AddPages(uint64_t first, uint64_t end, Rights rights);
  void AddStacks();
  void MapMemory();

  const MachineShape& shape_;
  WiredLayout layout_;
  uint64_t gpa_end_ = 0;
};

void Planner::PlaceMemslots() {
  Place(shape_.memory);
  Gva address(QUIRE_AUX);
  for (const AuxRegion& region : shape_.aux) {
    QUIRE_CHECK(region.size > ByteCount() && region.size.page_aligned() && region.size <= ByteCount::GiB(1024));
    layout_.aux.push_back({.address = address, .gpa = Place(region.size), .size = region.size});
    address = Gva(RoundUp(address.value() + region.size.in_bytes(), kBlockSize));
  }
  layout_.gpa = Gpa(gpa_end_);
}

void Planner::AddBeforeProgram() {
  Add(Gva(QUIRE_BOOT_INFO), WholePages(sizeof(quire_boot_info)), {.writable = true});
  layout_.descriptors = Add(kDescriptorsAddress, WholePages(DescriptorsSize(shape_.vcpus)), {.user = false});
  layout_.fault_code = Add(kFaultCodeAddress, WholePages(kVectors * kFaultCodeStride), {.executable = true});
  layout_.fault_frames = Add(kFaultFramesAddress, WholePages(PerVcpu(sizeof(FaultFrame))), {.writable = true});
}

// A page that two segments share gets the rights of both: the linker put them together knowingly (ld -n, ld -N).
void Planner::AddProgram() {
  layout_.program = layout_.size;
  uint64_t added_up_to = 0;  // page number
  for (const ElfSegment& segment : shape_.image.segments) {
    uint64_t first = segment.address.value() >> kPageShift;
    const uint64_t end = ((segment.end() - 1) >> kPageShift) + 1;
    if (first < added_up_to) {
      GuestMapping& last = layout_.mappings.back();
      Rights both{.writable = last.writable || segment.writable, .executable = last.executable || segment.executable};
      last.size = last.size - kOnePage.bytes();
      if (last.size == ByteCount()) layout_.mappings.pop_back();
      layout_.size = layout_.size - kOnePage.bytes();
      AddPages(first, first + 1, both);
      ++first;
    }
    AddPages(first, end, {.writable = segment.writable, .executable = segment.executable});
    added_up_to = std::max(added_up_to, end);
  }
}

void Planner::AddPages(uint64_t first, uint64_t end, Rights rights) {
  if (first < end) Add(Gva(first << kPageShift), PageCount(end - first).bytes(), rights);
}

void Planner::AddStacks() {
  layout_.stacks = layout_.size;
  for (int i = 0; i < shape_.vcpus; ++i) {
    Add(Gva(kStacksAddress.value() + i * kStackStride + (kStackStride - QUIRE_STACK_SIZE)),
        ByteCount::Bytes(QUIRE_STACK_SIZE), {.writable = true});
  }
}

void Planner::MapMemory() {
  Map(Gva(QUIRE_MEMORY), Gpa(0), shape_.memory, {.writable = true});
  for (size_t i = 0; i < shape_.aux.size(); ++i) {
    Map(layout_.aux[i].address, layout_.aux[i].gpa, shape_.aux[i].size,
        {.writable = shape_.aux[i].protection == Protection::kReadWrite});
  }
}

absl::StatusOr<WiredLayout> Planner::Plan() && {
  layout_.memory = shape_.memory;
  layout_.vcpus = shape_.vcpus;
  PlaceMemslots();
  AddBeforeProgram();
  AddProgram();
  AddStacks();
  MapMemory();
  layout_.page_tables = layout_.size;
  layout_.size += CountPageTables(layout_.mappings).bytes();
  Place(layout_.size);
  const int bits = shape_.physical_address_bits;
  if (bits < 64 && gpa_end_ > uint64_t{1} << bits) {
    return absl::InvalidArgumentError(
        absl::StrCat("guest memory of ", shape_.memory.in_bytes(), " bytes and what lies beside it need ", gpa_end_,
                     " bytes of guest physical addresses, but this host's guests have only ", bits,
                     " address bits, that is ", uint64_t{1} << bits, " bytes: give the guest less memory"));
  }
  return std::move(layout_);
}

uint64_t RelaxedLoad(const uint64_t& field) { return __atomic_load_n(&field, __ATOMIC_RELAXED); }

}  // namespace

absl::StatusOr<WiredLayout> PlanWiredMemory(const MachineShape& shape) {
  if (absl::Status status = CheckShape(shape); !status.ok()) return status;
  return Planner(shape).Plan();
}

WiredMemory::WiredMemory(WiredLayout layout, absl::Span<std::byte> memory)
    : layout_(std::move(layout)), memory_(memory) {
  QUIRE_CHECK(memory_.size() >= layout_.size.in_bytes());
  QUIRE_CHECK(reinterpret_cast<uintptr_t>(memory_.data()) % kPageSize == 0);
}

void WiredMemory::Load(const ElfImage& image, uint64_t seed) {
  std::memset(memory_.data(), 0, layout_.size.in_bytes());
  entry_ = image.entry;
  WriteBootInfo(seed);
  WriteDescriptors();
  WriteFaultCode();
  LoadProgram(image);
  WritePageTables(layout_.mappings, layout_.gpa + layout_.page_tables, memory_.subspan(layout_.page_tables.in_bytes()));
}

void WiredMemory::WriteBootInfo(uint64_t seed) {
  quire_boot_info& info = boot_info();
  info.magic = QUIRE_ABI_MAGIC;
  info.version = QUIRE_ABI_VERSION;
  info.vcpus = layout_.vcpus;
  info.memory = QUIRE_MEMORY;
  info.memory_bytes = layout_.memory.in_bytes();
  info.seed = seed;
  if (!layout_.aux.empty()) {
    const WiredLayout::Aux& last = layout_.aux.back();
    info.aux = QUIRE_AUX;
    info.aux_bytes = (last.address + last.size).value() - QUIRE_AUX;
  }
}

void WiredMemory::WriteDescriptors() {
  std::byte* const descriptors = At(layout_.descriptors);
  std::memcpy(descriptors, kGdt, sizeof(kGdt));
  auto* const gates = reinterpret_cast<Gate*>(descriptors + kIdtOffset);
  for (int vector = 0; vector < kVectors; ++vector) {
    const uint64_t code = kFaultCodeAddress.value() + vector * kFaultCodeStride;
    gates[vector] = {.offset_low = static_cast<uint16_t>(code),
                     .selector = kCodeSelector,
                     .stack = 1,
                     .type = kInterruptGate,
                     .offset_middle = static_cast<uint16_t>(code >> 16),
                     .offset_high = static_cast<uint32_t>(code >> 32),
                     .reserved = 0};
  }
  for (int vcpu = 0; vcpu < layout_.vcpus; ++vcpu) {
    TaskState tss{};
    tss.interrupt_stack[0] = kFaultFramesAddress.value() + (vcpu + 1) * sizeof(FaultFrame);
    tss.io_map = static_cast<uint16_t>(IoMapOffset(layout_.vcpus) - TssOffset(vcpu));
    std::memcpy(descriptors + TssOffset(vcpu), &tss, sizeof(tss));
  }
  descriptors[DescriptorsSize(layout_.vcpus) - 1] = std::byte{0xff};
}

void WiredMemory::WriteFaultCode() {
  for (int vector = 0; vector < kVectors; ++vector) {
    std::memcpy(At(layout_.fault_code) + vector * kFaultCodeStride, kFaultCode, sizeof(kFaultCode));
  }
}

void WiredMemory::LoadProgram(const ElfImage& image) {
  for (const ElfSegment& segment : image.segments) {
    // Page by page: a segment's pages need not be neighbours in wired memory.
    for (size_t done = 0; done < segment.content.size();) {
      const Gva address = segment.address + ByteCount::Bytes(done);
      const size_t size = std::min(segment.content.size() - done, size_t{kPageSize - address.value() % kPageSize});
      std::memcpy(AtGuest(address), segment.content.data() + done, size);
      done += size;
    }
  }
}

std::byte* WiredMemory::AtGuest(Gva address) const {
  const auto after = std::upper_bound(layout_.mappings.begin(), layout_.mappings.end(), address,
                                      [](Gva a, const GuestMapping& m) { return a < m.address; });
  QUIRE_CHECK(after != layout_.mappings.begin());
  const GuestMapping& mapping = *(after - 1);
  const uint64_t offset = address.value() - mapping.address.value();
  QUIRE_CHECK(offset < mapping.size.in_bytes() && mapping.gpa >= layout_.gpa);
  return At(ByteCount::Bytes(mapping.gpa.value() - layout_.gpa.value() + offset));
}

void WiredMemory::LoadClone(absl::Span<const std::byte> frozen, uint64_t clone) {
  QUIRE_CHECK(frozen.size() == memory_.size());
  std::memcpy(memory_.data(), frozen.data(), frozen.size());
  boot_info().clone = clone;
}

VcpuStart WiredMemory::StartOf(int vcpu) const {
  QUIRE_CHECK(0 <= vcpu && vcpu < layout_.vcpus);
  const Gva stack_end(kStacksAddress.value() + (vcpu + 1) * kStackStride);
  return {.entry = entry_,
          .stack_pointer = Gva(stack_end.value() - sizeof(uint64_t)),  // as if a return address had been pushed
          .boot_info = Gva(QUIRE_BOOT_INFO),
          .vcpu = vcpu,
          .page_tables = layout_.gpa + layout_.page_tables,
          .gdt = kDescriptorsAddress,
          .idt = kDescriptorsAddress + ByteCount::Bytes(kIdtOffset),
          .tss = kDescriptorsAddress + ByteCount::Bytes(TssOffset(vcpu)),
          .gdt_limit = sizeof(kGdt) - 1,
          .idt_limit = kVectors * sizeof(Gate) - 1,
          .tss_limit = static_cast<uint16_t>(DescriptorsSize(layout_.vcpus) - TssOffset(vcpu) - 1)};
}

void WiredMemory::RequestStop() { __atomic_store_n(&boot_info().stop, 1, __ATOMIC_RELAXED); }

bool WiredMemory::stop_requested() const { return RelaxedLoad(boot_info().stop) != 0; }

void WiredMemory::AskToRest(uint32_t percent) {
  __atomic_store_n(&boot_info().idle_percent, percent, __ATOMIC_RELAXED);
}

quire_progress WiredMemory::ReadProgress(int vcpu) const {
  QUIRE_CHECK(0 <= vcpu && vcpu < layout_.vcpus);
  const quire_progress& progress = boot_info().progress[vcpu];
  return {.operations = RelaxedLoad(progress.operations),
          .verified_pages = RelaxedLoad(progress.verified_pages),
          .mismatched_pages = RelaxedLoad(progress.mismatched_pages),
          .first_bad_page = RelaxedLoad(progress.first_bad_page),
          .first_bad_word = RelaxedLoad(progress.first_bad_word),
          .first_bad_value = RelaxedLoad(progress.first_bad_value),
          .first_bad_wanted = RelaxedLoad(progress.first_bad_wanted),
          .phase = RelaxedLoad(progress.phase)};
}

AdvisedPart WiredMemory::ReadAdvisedPart() const {
  return {.begin = ByteCount::Bytes(RelaxedLoad(boot_info().huge_begin)),
          .size = ByteCount::Bytes(RelaxedLoad(boot_info().huge_bytes))};
}

AdvisedPart WiredMemory::ReadPartToWire() const {
  return {.begin = ByteCount::Bytes(RelaxedLoad(boot_info().wire_begin)),
          .size = ByteCount::Bytes(RelaxedLoad(boot_info().wire_bytes))};
}

void WiredMemory::AnswerWireRequest(uint64_t answer) {
  __atomic_store_n(&boot_info().wire_answer, answer, __ATOMIC_RELAXED);
}

std::optional<GuestFault> WiredMemory::FaultAt(Gva rip, int vcpu) const {
  QUIRE_CHECK(0 <= vcpu && vcpu < layout_.vcpus);
  const uint64_t vector = (rip.value() - kFaultCodeAddress.value()) / kFaultCodeStride;
  if (vector >= kVectors) return std::nullopt;
  const FaultFrame& frame = reinterpret_cast<const FaultFrame*>(At(layout_.fault_frames))[vcpu];
  return GuestFault{.vector = static_cast<int>(vector),
                    .error_code = kHasErrorCode >> vector & 1 ? RelaxedLoad(frame.error_code) : 0,
                    .rip = RelaxedLoad(frame.rip),
                    .rflags = RelaxedLoad(frame.rflags),
                    .rsp = RelaxedLoad(frame.rsp)};
}

}  // namespace quire
