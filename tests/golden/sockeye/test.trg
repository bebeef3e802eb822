t ɑ̃ d i
s ɛ ʁ
ɑ̃ f ɛ ʁ
ʁ e y n j ɔ̃
m ɔ d ɛ ʁ n
s t a ʁ
k l a s i k
b j ɛ̃ t o
b u d i s t
d e f o
ɛ̃ p a k t
m i ʃ ɛ l
s ɔ ʁ t i
d i p l o m
k ɑ z
d ə v ɑ̃ s
d ə v ɑ̃ s
d ə v ɑ̃ s e
f a m
s ɛ̃ k ɑ̃ t ɛ n
ʒ ø
d i d j e
m a l i
m ɑ̃ d e
l i k i d a s j ɔ̃
e k ɔ n ɔ m i k
v j ɛ̃ d ʁ a
d e ʃ w e
d e m a ʁ ʃ
o b
s y k s ɛ
d u s œ ʁ
p ʁ ɔ t ɛ k t œ ʁ
ʁ e z i n ø
o k ɛ l
k ɛ l
a b ɔ ʁ
t ʁ i m ɛ s t ʁ
t ɔ l e
k ɔ m ɑ̃ d ɑ̃
m i k a ɛ l
f e t i ʃ
k ɔ̃ t ʁ
k ɔ̃ t ʁ e
f i ʃ
a n a l i z
a n a l i z
e t ʁ ɑ̃ ʒ e
k u ʃ
d e b y t e
d e b y t ɑ̃
f i s k a l i t e
k u v ɛ ʁ t y ʁ
p ʁ ɔ ʃ ɛ n m ɑ̃
ʁ e p y b l i k
ʁ e z o
ɔ k ɛ
l ɔ k a l i t e
s œ ʁ f e
p ɔ p y l a s j ɔ̃
