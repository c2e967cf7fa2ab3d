# cmake -D INPUT=file -D OUTPUT=x.cpp -D NAME=kName -P EmbedFile.cmake
# Writes INPUT's bytes as `const unsigned char NAME[]` and their count as `NAME_bytes`, in namespace spanwise.
file(READ ${INPUT} hex HEX)
string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)" "\\1\n"
       bytes "${bytes}")
file(WRITE ${OUTPUT} "#include <cstddef>
namespace spanwise {
extern const unsigned char ${NAME}[];
extern const std::size_t ${NAME}_bytes;
const unsigned char ${NAME}[] = {
${bytes}};
const std::size_t ${NAME}_bytes = sizeof(${NAME});
}  // namespace spanwise
")
