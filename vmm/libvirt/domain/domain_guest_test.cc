// Descriptions as they are found in the wild, in testdata/: each with what becomes of it beside it, in a file .notes.
#include "vmm/libvirt/domain/domain_guest.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/libvirt/domain/document.h"
#include "vmm/libvirt/domain/note.h"
#include "vmm/pc_options.h"
#include "vmm/virtio/balloon_offer.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kDirectory[] = "vmm/libvirt/domain/testdata";

std::string Contents(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// Their names, without .xml.
std::vector<std::string> DomainsIn(const std::string& directory) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() == ".xml") names.insert(entry.path().stem());
  }
  return {names.begin(), names.end()};
}

absl::StatusOr<DomainReading> Read(const std::string& text) {
  const absl::StatusOr<DomainDocument> document = DomainDocument::Parse("some.xml", text);
  return document.ok() ? ReadDomain(*document) : document.status();
}

DomainReading ReadFile(const std::string& name) {
  return Read(Contents(absl::StrCat(kDirectory, "/", name, ".xml"))).value();
}

// A domain of which all but a part is as it has to be.
std::string With(const std::string& elements, const std::string& devices = "", const std::string& os = "") {
  return absl::StrCat("<domain type='kvm'><name>d</name><memory unit='MiB'>256</memory>", elements,
                      "<os><type>hvm</type><kernel>/k</kernel>", os, "</os><devices>", devices, "</devices></domain>");
}
DomainGuest GuestOf(const std::string& text) { return Read(text).value().guest; }
std::vector<std::string> NotesOf(const std::string& text) {
  std::vector<std::string> notes;
  const DomainReading reading = Read(text).value();
  for (const DomainNote& note : reading.notes) notes.push_back(absl::StrCat(Name(note.kind), " ", note.path));
  return notes;
}
std::string ErrorOf(const std::string& text) { return std::string(Read(text).status().message()); }

class FoundDomainTest : public ::testing::TestWithParam<std::string> {};

// To write what a change has made of these files: UPDATE=. bazel-bin/vmm/libvirt/domain/domain_guest_test
TEST_P(FoundDomainTest, HasTheNotesThatAreExpected) {
  const std::string notes = absl::StrCat(kDirectory, "/", GetParam(), ".notes");
  const std::string text = NotesText(ReadFile(GetParam()).notes);
  if (std::getenv("UPDATE") != nullptr) std::ofstream(notes) << text;
  EXPECT_EQ(text, Contents(notes));
}

TEST_P(FoundDomainTest, MeansTheSameWhenItHasBeenWrittenBack) {
  const std::string text = Contents(absl::StrCat(kDirectory, "/", GetParam(), ".xml"));
  const DomainDocument document = DomainDocument::Parse("a.xml", text).value();
  const DomainDocument again = DomainDocument::Parse("a.xml", document.ToXml()).value();
  EXPECT_EQ(again.ToXml(), document.ToXml());
  EXPECT_EQ(ReadDomain(again)->notes, ReadDomain(document)->notes) << "with their lines";
}

INSTANTIATE_TEST_SUITE_P(Domains, FoundDomainTest, ::testing::ValuesIn(DomainsIn(kDirectory)),
                         [](const auto& info) { return info.param; });

TEST(DomainGuestTest, AMinimalDomainHasWhatLibvirtGivesIt) {
  const DomainReading reading = ReadFile("minimal");
  EXPECT_THAT(reading.notes, IsEmpty());
  const DomainGuest& guest = reading.guest;
  EXPECT_EQ(guest.name, "minimal");
  EXPECT_EQ(guest.pc.name, "minimal");
  EXPECT_EQ(guest.memory, ByteCount::MiB(256));
  EXPECT_EQ(guest.vcpus, 1);
  EXPECT_EQ(guest.pc.kernel, "/boot/vmlinuz");
  EXPECT_FALSE(guest.pc.initrd.has_value());
  EXPECT_EQ(guest.pc.command_line, "");
  EXPECT_EQ(guest.pc.balloon, ByteCount());
  EXPECT_EQ(guest.pc.balloon_offer, (BalloonOffer{.deflates_on_oom = false, .reports_free_pages = false}));
  EXPECT_FALSE(guest.pc.console.has_value());
  EXPECT_FALSE(guest.pool_limit.has_value() || guest.swap_limit.has_value());
  EXPECT_TRUE(guest.shares_pages);
  EXPECT_FALSE(guest.huge_pages || guest.locked);
}

TEST(DomainGuestTest, AKernelIsBootedWithItsDisksAndDevices) {
  const DomainReading reading = ReadFile("direct_boot");
  EXPECT_FALSE(reading.refused());
  const DomainGuest& guest = reading.guest;
  EXPECT_EQ(guest.memory, ByteCount::GiB(1));
  EXPECT_EQ(guest.vcpus, 2) << "those that are current";
  EXPECT_EQ(guest.pc.kernel, "/srv/guests/vmlinuz-6.12");
  EXPECT_EQ(guest.pc.initrd, "/srv/guests/initrd.img-6.12");
  EXPECT_EQ(guest.pc.command_line, "console=ttyS0 root=/dev/vda ro quiet \"with quotes\" <and> signs");
  ASSERT_EQ(guest.pc.disks.size(), 2u);
  EXPECT_EQ(guest.pc.disks[0].path, "/srv/guests/root, with a comma.img");
  EXPECT_TRUE(guest.pc.disks[0].read_only);
  EXPECT_EQ(guest.pc.disks[1].path, "/srv/guests/data.img");
  EXPECT_FALSE(guest.pc.disks[1].read_only);
  ASSERT_TRUE(guest.pc.console.has_value());
  EXPECT_EQ(guest.pc.console->kind, ConsoleTarget::Kind::kFile);
  EXPECT_EQ(guest.pc.console->path, "/var/log/guests/direct-1.log");
  EXPECT_EQ(guest.pc.console->how, WhereThereIsOne::kAppend);
  EXPECT_EQ(guest.pc.balloon, ByteCount::MiB(256)) << "memory less currentMemory";
  EXPECT_EQ(guest.pc.balloon_offer, BalloonOffer{});
  EXPECT_EQ(guest.pc.statistics_period, absl::Seconds(10));
}

TEST(DomainGuestTest, LimitsAreThoseOfMemtune) {
  const DomainGuest guest = ReadFile("memtune_balloon").guest;
  EXPECT_EQ(guest.memory.in_bytes(), 4'000'002'048u) << "in whole pages";
  EXPECT_EQ(guest.pc.balloon, guest.memory - ByteCount::Bytes(1'500'000'256));
  EXPECT_EQ(guest.pool_limit, ByteCount::GiB(3));
  EXPECT_EQ(guest.swap_limit, ByteCount::GiB(2)) << "swap_hard_limit is the sum";
  EXPECT_FALSE(guest.pc.console.has_value()) << "standard input and output is where the program is";
}

TEST(DomainGuestTest, MemoryIsBackedAsFarAsItCanBe) {
  const DomainGuest guest = ReadFile("numa_hugepages").guest;
  EXPECT_EQ(guest.memory, ByteCount::GiB(12)) << "that of the cells";
  EXPECT_TRUE(guest.huge_pages);
  EXPECT_TRUE(guest.locked);
  EXPECT_FALSE(guest.shares_pages);
}

TEST(DomainGuestTest, WithoutABalloonTheGuestHasAllOfItsMemory) {
  const std::string text = With("<currentMemory>65536</currentMemory>", "<memballoon model='none'/>");
  EXPECT_EQ(GuestOf(text).pc.balloon, ByteCount());
  EXPECT_FALSE(GuestOf(text).pc.balloon_offer.exists);
  EXPECT_THAT(NotesOf(text), ElementsAre("ignored /domain/currentMemory"));
}

TEST(DomainGuestTest, MoreCurrentMemoryThanThereIsIsAllOfIt) {
  EXPECT_EQ(GuestOf(With("<currentMemory unit='GiB'>1</currentMemory>")).pc.balloon, ByteCount());
  EXPECT_EQ(GuestOf(With("<currentMemory>0</currentMemory>")).pc.balloon, ByteCount());
}

TEST(DomainGuestTest, LimitsThatMeanNoneAreNone) {
  const DomainGuest guest = GuestOf(With("<memtune><hard_limit>9007199254740991</hard_limit></memtune>"));
  EXPECT_FALSE(guest.pool_limit.has_value());
  const std::string swap = With("<memtune><swap_hard_limit>1048576</swap_hard_limit></memtune>");
  EXPECT_FALSE(GuestOf(swap).swap_limit.has_value());
  EXPECT_THAT(NotesOf(swap), ElementsAre("ignored /domain/memtune/swap_hard_limit"));
}

TEST(DomainGuestTest, WithoutRoomToSwapOnePageMayBe) {
  const DomainGuest guest =
      GuestOf(With("<memtune><hard_limit>1048576</hard_limit><swap_hard_limit>1048576</swap_hard_limit></memtune>"));
  EXPECT_EQ(guest.swap_limit, kOnePage.bytes());
}

TEST(DomainGuestTest, ALimitThatNoGuestCanRunInIsRefused) {
  EXPECT_THAT(NotesOf(With("<memtune><hard_limit>4095</hard_limit></memtune>")),
              ElementsAre("refused /domain/memtune/hard_limit"));
  EXPECT_THAT(NotesOf(With("<memtune><hard_limit>4096</hard_limit></memtune>")), IsEmpty());
}

TEST(DomainGuestTest, WithoutAKernelNothingIsBooted) {
  const std::string text =
      "<domain type='kvm'><name>d</name><memory>262144</memory><os><type>hvm</type><boot dev='hd'/></os></domain>";
  EXPECT_THAT(NotesOf(text), ElementsAre("refused /domain/os", "refused /domain/os/boot"));
}

TEST(DomainGuestTest, WithAKernelFirmwareIsNotMissed) {
  EXPECT_THAT(NotesOf(With("", "", "<loader>/f</loader><boot dev='hd'/>")),
              ElementsAre("ignored /domain/os/loader", "ignored /domain/os/boot"));
  EXPECT_THAT(NotesOf(With("", "", "<loader secure='yes'>/f</loader>")),
              ElementsAre("refused /domain/os/loader/@secure"));
}

TEST(DomainGuestTest, ADiskIsARawFileOnVirtio) {
  const auto disk = [](const std::string& inside) {
    return With("", absl::StrCat("<disk type='file' device='disk'>", inside, "</disk>"));
  };
  const std::string source = "<source file='/i'/>", target = "<target dev='vda' bus='virtio'/>";
  EXPECT_THAT(NotesOf(disk(source + target)), IsEmpty());
  EXPECT_THAT(NotesOf(disk(source + target + "<driver type='raw'/><backingStore/>")), IsEmpty());
  const std::string path = "/domain/devices/disk";
  for (const auto& [inside, note] : std::vector<std::pair<std::string, std::string>>{
           {source + target + "<driver type='qcow2'/>", "/driver/@type"},
           {source + "<target dev='sda' bus='scsi'/>", "/target/@bus"},
           {source + "<target dev='sda'/>", "/target/@bus"},
           {source + target + "<transient/>", "/transient"},
           {source + target + "<encryption format='luks'/>", "/encryption"},
           {source + target + "<backingStore type='file'><format type='raw'/></backingStore>", "/backingStore"},
           {"<source file='relative.img'/>" + target, "/source"},
           {"<source file='/i'><slices><slice type='storage' offset='0' size='1'/></slices></source>" + target,
            "/source/slices"},
           {target, ""}}) {
    EXPECT_THAT(NotesOf(disk(inside)), ElementsAre(absl::StrCat("refused ", path, note))) << inside;
  }
  for (const char* type : {"block", "network", "volume", "nvme", "dir"}) {
    EXPECT_THAT(NotesOf(With("", absl::StrCat("<disk type='", type, "'>", target, "</disk>"))),
                ElementsAre("refused /domain/devices/disk/@type"));
  }
  EXPECT_THAT(ErrorOf(disk(source)), HasSubstr("<disk> has no <target>"));
}

TEST(DomainGuestTest, AnEmptyDriveIsNoLossAndOneWithAMediumIs) {
  EXPECT_THAT(NotesOf(With("", "<disk device='cdrom' type='file'><target dev='sda'/></disk>")),
              ElementsAre("ignored /domain/devices/disk"));
  EXPECT_THAT(NotesOf(With("", "<disk device='cdrom' type='file'><source file='/i'/><target dev='sda'/></disk>")),
              ElementsAre("refused /domain/devices/disk"));
}

TEST(DomainGuestTest, MoreDisksThanThereIsRoomForAreRefused) {
  std::string disks;
  for (int i = 0; i < 6; ++i) {
    absl::StrAppend(&disks, "<disk type='file'><source file='/", i, "'/><target dev='vd", std::string(1, 'a' + i),
                    "'/></disk>");
  }
  EXPECT_EQ(GuestOf(With("", disks)).pc.disks.size(), 5u);
  EXPECT_THAT(NotesOf(With("", disks)), ElementsAre("refused /domain/devices/disk[6]"));
}

TEST(DomainGuestTest, TheConsoleOfASerialPortIsWrittenTwiceAndReadOnce) {
  const std::string both =
      "<serial type='file'><source path='/log'/><target port='0'/></serial>"
      "<console type='file'><source path='/log'/><target type='serial' port='0'/></console>";
  EXPECT_THAT(NotesOf(With("", both)), IsEmpty());
  const ConsoleTarget target = GuestOf(With("", both)).pc.console.value();
  EXPECT_EQ(target.path, "/log");
  EXPECT_EQ(target.how, WhereThereIsOne::kReplace);
  const std::string alone = "<console type='file'><source path='/log'/></console>";
  EXPECT_EQ(GuestOf(With("", alone)).pc.console->path, "/log");
  EXPECT_EQ(GuestOf(With("", "<serial type='null'/>")).pc.console->path, "/dev/null");
}

TEST(DomainGuestTest, APathThatQuireWouldReadOtherwiseIsRefused) {
  EXPECT_THAT(NotesOf(With("", "<serial type='file'><source path='/log-%d'/></serial>")),
              ElementsAre("refused /domain/devices/serial/source/@path"));
}

TEST(DomainGuestTest, WhatADomainLacksIsSaid) {
  EXPECT_THAT(ErrorOf("<domain/>"), HasSubstr("<domain> has no type"));
  EXPECT_THAT(ErrorOf("<domain type='kvm'><name>d</name><memory>1024</memory></domain>"), HasSubstr("has no <os>"));
  EXPECT_THAT(ErrorOf("<domain type='kvm'><name> </name></domain>"), HasSubstr("<name> is empty"));
  EXPECT_THAT(ErrorOf(With("<cpu><numa><cell id='0'/></numa></cpu>")), HasSubstr("<cell> has no memory"));
  EXPECT_THAT(ErrorOf(With("<vcpu>two</vcpu>")), HasSubstr("no number of vCPUs"));
  EXPECT_THAT(ErrorOf(With("<vcpu><a/></vcpu>")), HasSubstr("and is text alone"));
  EXPECT_THAT(ErrorOf(With("", "<memballoon model='lead'/>")), HasSubstr("write virtio or none"));
  EXPECT_THAT(ErrorOf(With("", "<memballoon model='virtio'/><memballoon model='virtio'/>")),
              HasSubstr("a second <memballoon>"));
  EXPECT_THAT(ErrorOf(With("", "<memballoon model='virtio'><stats period='-1'/></memballoon>")),
              HasSubstr("whole number"));
}

TEST(DomainGuestTest, OtherHypervisorsAndMachinesAreRefused) {
  for (const char* type : {"xen", "lxc", "hvf", "test"}) {
    EXPECT_THAT(NotesOf(absl::StrCat("<domain type='", type,
                                     "'><name>d</name><memory>262144</memory><os><type arch='aarch64'>linux</type>"
                                     "<kernel>/k</kernel></os></domain>")),
                ElementsAre("refused /domain/@type", "refused /domain/os/type", "refused /domain/os/type/@arch"));
  }
}

TEST(DomainGuestTest, MemoryThatNoPcHasIsRefused) {
  const auto of = [](const std::string& memory) {
    return absl::StrCat("<domain type='kvm'><name>d</name><memory unit='MiB'>", memory,
                        "</memory><os><type>hvm</type><kernel>/k</kernel></os></domain>");
  };
  EXPECT_THAT(NotesOf(of("1")), ElementsAre("refused /domain/memory"));
  EXPECT_THAT(NotesOf(of("2")), IsEmpty());
  EXPECT_THAT(NotesOf(of("99999999")), ElementsAre("refused /domain/memory"));
  EXPECT_THAT(ErrorOf(of("0")), HasSubstr("leaves the guest no memory"));
}

struct Malformed {
  const char* file;
  const char* says;
};

class MalformedDomainTest : public ::testing::TestWithParam<Malformed> {};

TEST_P(MalformedDomainTest, HasAMessageOfItsOwnWithTheLine) {
  const std::string text = Contents(absl::StrCat(kDirectory, "/malformed/", GetParam().file, ".xml"));
  ASSERT_NE(text, "") << GetParam().file;
  EXPECT_EQ(ErrorOf(text), absl::StrCat("some.xml:", GetParam().says));
}

const Malformed kMalformed[] = {
    {"a_network", "1: this describes a <network>, not a <domain>: `virsh dumpxml` prints one"},
    {"attribute_twice", "9: <disk> has \"type\" twice"},
    {"ends_too_soon", "8: this is no XML: start-end tags mismatch"},
    {"entity_bomb",
     "2: it has a document type (<!DOCTYPE>) or a declaration of one, which a domain has no use for: take it out"},
    {"latin_1", "2: this is no UTF-8: convert the file, as by iconv"},
    {"limits_do_not_fit", "6: swap_hard_limit is less than hard_limit, which it includes"},
    {"line_break_in_name", "2: <name> has a line break, or another character that is none to be read"},
    {"memory_twice", "4: there is a second <memory>: leave one of them out"},
    {"negative_memory", "3: <memory>: \"-262144\" is no size: write a whole number"},
    {"neither_on_nor_off", "9: <memballoon autodeflate=\"maybe\">: write on or off"},
    {"no_memory", "1: the domain has no <memory>"},
    {"no_name", "1: the domain has no <name>"},
    {"tags_do_not_fit", "3: this is no XML: start-end tags mismatch"},
    {"too_deep", "71: elements are more than 64 deep in each other"},
    {"too_many_current_vcpus", "4: <vcpu current=\"5\">: write one from 1 to 4"},
    {"too_much_memory", "3: <memory>: 16 EiB is more than any machine has"},
    {"two_roots", "9: there is a second root element"},
    {"unknown_entity", "2: \"&nbsp\" is no entity of XML's and no character: write &amp; for the sign itself"},
    {"unknown_unit", "3: <memory>: \"parsec\" is no unit: write KiB, MiB or GiB, or KB, MB or GB for powers of 1000"},
};

INSTANTIATE_TEST_SUITE_P(Files, MalformedDomainTest, ::testing::ValuesIn(kMalformed),
                         [](const auto& info) { return info.param.file; });

TEST(MalformedDomainsTest, AreAllTried) {
  std::vector<std::string> tried;
  for (const Malformed& malformed : kMalformed) tried.push_back(malformed.file);
  EXPECT_EQ(DomainsIn(absl::StrCat(kDirectory, "/malformed")), tried);
}

}  // namespace
}  // namespace quire
