#include "vmm/kvm/elf_loader.h"

#include <elf.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "base/file_view.h"
#include "workloads/guest_abi.h"

namespace quire {
namespace {

constexpr absl::string_view kHowToLink = "link it with -nostdlib -static -no-pie";

// One parse: the file, and what has been found so far.
class Parser {
 public:
  Parser(const FileView& file, ByteCount limit) : file_(file), limit_(limit) {}

  absl::StatusOr<ElfImage> Parse() &&;

 private:
  absl::Status CheckIdentity();
  absl::Status CheckHeader();
  absl::Status CheckType();
  absl::Status ReadProgramHeaders();
  absl::Status ReadProgramHeader(const Elf64_Phdr& header);
  absl::Status AddSegment(const Elf64_Phdr& header);
  absl::Status CheckSegments();
  absl::Status CheckEntry();

  const FileView file_;
  const ByteCount limit_;
  Elf64_Ehdr header_;
  ElfImage image_;
};

std::string Hex(uint64_t value) { return absl::StrFormat("0x%x", value); }

std::string Range(uint64_t begin, uint64_t end) { return absl::StrFormat("[0x%x, 0x%x)", begin, end); }

// Identification bytes come before anything whose meaning depends on them.
absl::Status Parser::CheckIdentity() {
  if (!file_.StartsWith({ELFMAG, SELFMAG})) {
    return file_.Error("not an ELF file: a guest program is a statically linked ELF64 executable for x86-64");
  }
  if (file_.size() < EI_NIDENT) return file_.Error("truncated: the file ends within its ELF header");
  const auto identity = [this](int index) { return std::to_integer<int>(file_.bytes()[index]); };
  if (identity(EI_CLASS) == ELFCLASS32) return file_.Error("a 32-bit program: compile it with -m64");
  if (identity(EI_CLASS) != ELFCLASS64) return file_.Error("neither 32-bit nor 64-bit: ELF class ", identity(EI_CLASS));
  if (identity(EI_DATA) != ELFDATA2LSB) return file_.Error("not little-endian: a guest program is built for x86-64");
  if (identity(EI_VERSION) != EV_CURRENT) return file_.Error("ELF version ", identity(EI_VERSION), ", expected 1");
  return absl::OkStatus();
}

absl::Status Parser::CheckHeader() {
  const std::optional<Elf64_Ehdr> header = file_.ReadAt<Elf64_Ehdr>(0);
  if (!header) return file_.Error("truncated: the file ends within its ELF header");
  header_ = *header;
  if (header_.e_machine != EM_X86_64) {
    return file_.Error("built for another machine (ELF machine ", header_.e_machine, "): a guest runs x86-64 code");
  }
  return CheckType();
}

absl::Status Parser::CheckType() {
  switch (header_.e_type) {
    case ET_EXEC:
      return absl::OkStatus();
    case ET_DYN:
      return file_.Error("a position independent executable or shared library: ", kHowToLink);
    case ET_REL:
      return file_.Error("an object file, not a program: ", kHowToLink);
    default:
      return file_.Error("not an executable (ELF type ", header_.e_type, "): ", kHowToLink);
  }
}

absl::Status Parser::ReadProgramHeaders() {
  if (header_.e_phnum == 0) return file_.Error("has no program headers, so nothing to load: ", kHowToLink);
  if (header_.e_phnum == PN_XNUM) return file_.Error("has too many program headers");
  if (header_.e_phentsize != sizeof(Elf64_Phdr)) {
    return file_.Error("program headers of ", header_.e_phentsize, " bytes, expected ", sizeof(Elf64_Phdr));
  }
  const uint64_t table_size = uint64_t{header_.e_phnum} * sizeof(Elf64_Phdr);
  if (!file_.Holds(header_.e_phoff, table_size)) {
    return file_.Error("truncated: program headers at offset ", header_.e_phoff, " in a file of ", file_.size(),
                       " bytes");
  }
  for (int i = 0; i < header_.e_phnum; ++i) {
    const Elf64_Phdr header = *file_.ReadAt<Elf64_Phdr>(header_.e_phoff + i * sizeof(Elf64_Phdr));
    if (absl::Status status = ReadProgramHeader(header); !status.ok()) return status;
  }
  if (image_.segments.empty()) return file_.Error("has no segment to load: ", kHowToLink);
  return absl::OkStatus();
}

absl::Status Parser::ReadProgramHeader(const Elf64_Phdr& header) {
  switch (header.p_type) {
    case PT_LOAD:
      return AddSegment(header);
    case PT_INTERP:
    case PT_DYNAMIC:
      return file_.Error("a dynamically linked program, and a guest has no dynamic linker: ", kHowToLink);
    case PT_TLS:
      return file_.Error(
          "uses thread-local storage, which nobody sets up in a guest: compile it with -ffreestanding and ",
          kHowToLink);
    default:
      return absl::OkStatus();  // notes, stack flags, unwind tables: nothing that loading needs
  }
}

absl::Status Parser::AddSegment(const Elf64_Phdr& header) {
  if (header.p_filesz > header.p_memsz) {
    return file_.Error("malformed: the segment at ", Hex(header.p_vaddr), " has ", header.p_filesz,
                       " bytes in the file but takes only ", header.p_memsz);
  }
  if (header.p_memsz == 0) return absl::OkStatus();
  if (!file_.Holds(header.p_offset, header.p_filesz)) {
    return file_.Error("truncated: the segment at ", Hex(header.p_vaddr), " lies beyond the end of the file");
  }
  if (header.p_vaddr < QUIRE_IMAGE_BEGIN || header.p_vaddr >= QUIRE_IMAGE_END ||
      header.p_memsz > QUIRE_IMAGE_END - header.p_vaddr) {
    return file_.Error("the segment of ", header.p_memsz, " bytes at ", Hex(header.p_vaddr), " is outside ",
                       Range(QUIRE_IMAGE_BEGIN, QUIRE_IMAGE_END),
                       ", where a guest program may lie: link it with -Wl,-Ttext-segment=", Hex(QUIRE_IMAGE_BEGIN),
                       " or make it smaller");
  }
  image_.segments.push_back({.address = Gva(header.p_vaddr),
                             .size = ByteCount::Bytes(header.p_memsz),
                             .content = file_.Part(header.p_offset, header.p_filesz),
                             .writable = (header.p_flags & PF_W) != 0,
                             .executable = (header.p_flags & PF_X) != 0});
  return absl::OkStatus();
}

absl::Status Parser::CheckSegments() {
  auto& segments = image_.segments;
  std::sort(segments.begin(), segments.end(),
            [](const ElfSegment& a, const ElfSegment& b) { return a.address < b.address; });
  for (size_t i = 1; i < segments.size(); ++i) {
    const ElfSegment &a = segments[i - 1], &b = segments[i];
    if (b.address.value() < a.end()) {
      return file_.Error("malformed: the segments ", Range(a.address.value(), a.end()), " and ",
                         Range(b.address.value(), b.end()), " overlap");
    }
  }
  if (image_.pages().bytes() > limit_) {
    return file_.Error("takes ", image_.pages().in_bytes(), " bytes of memory, more than the guest's ",
                       limit_.in_bytes(), ": make the program smaller or raise --memory");
  }
  return absl::OkStatus();
}

absl::Status Parser::CheckEntry() {
  const Gva entry(header_.e_entry);
  for (const ElfSegment& segment : image_.segments) {
    if (entry < segment.address || entry.value() >= segment.end()) continue;
    if (!segment.executable) {
      return file_.Error("the entry point ", Hex(entry.value()), " is in a segment without code");
    }
    image_.entry = entry;
    return absl::OkStatus();
  }
  return file_.Error("the entry point ", Hex(entry.value()),
                     " is outside every segment: define _start or link with -e");
}

absl::StatusOr<ElfImage> Parser::Parse() && {
  for (auto step : {&Parser::CheckIdentity, &Parser::CheckHeader, &Parser::ReadProgramHeaders, &Parser::CheckSegments,
                    &Parser::CheckEntry}) {
    if (absl::Status status = (this->*step)(); !status.ok()) return status;
  }
  return std::move(image_);
}

}  // namespace

PageCount ElfImage::pages() const {
  PageCount count;
  uint64_t counted_up_to = 0;  // page number: two segments may share a page
  for (const ElfSegment& segment : segments) {
    const uint64_t first = std::max(segment.address.value() >> kPageShift, counted_up_to);
    const uint64_t end = ((segment.end() - 1) >> kPageShift) + 1;
    count += PageCount(end - std::min(first, end));
    counted_up_to = end;
  }
  return count;
}

absl::StatusOr<ElfImage> ParseElf(absl::string_view name, absl::Span<const std::byte> file, ByteCount limit) {
  return Parser(FileView(name, file), limit).Parse();
}

}  // namespace quire
